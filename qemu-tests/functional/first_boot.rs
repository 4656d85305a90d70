//! From the image to a tool call: the box boots by UEFI, is claimed, runs an instance, and an official client calls it
//! over TLS with the box's CA.

use crate::harness::claimed::claimed;

#[test]
fn first_boot_to_a_tool_call() {
    let c = claimed();
    // What was saved is that box.
    let (mut m, address) = c.resume("resumed");
    c.holds(&address);
    let list = c.laptop(&m).json(&["list"]);
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list:#}");
    m.check();
}
