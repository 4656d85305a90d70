//! What booting takes, told as a table. Nothing here asserts a time.

mod boot;
