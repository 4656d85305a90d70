//! The instance images that this version ships: archives that a unit of its own gives to Docker after the first boot of it
//! (`berth-images.service`), while the box serves already.

use std::{collections::BTreeSet, fs, path::Path};

/// Lines of an archive's name, without its ending, and of an image that is in it.
const LIST: &str = "/usr/share/berth/images/list";
/// The unit puts a file of an archive's name here when Docker has it.
const LOADED: &str = "/var/lib/berth-images";

/// The images that this box will have in a moment, by name. None elsewhere than on the host image.
pub fn coming() -> BTreeSet<String> {
    of(Path::new(LIST), Path::new(LOADED))
}

fn of(list: &Path, loaded: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    let rows = text.lines().filter_map(|l| l.split_once(' '));
    let is_loaded = |archive: &str| loaded.join(archive).exists();
    rows.filter(|(archive, _)| !is_loaded(archive))
        .map(|(_, image)| image.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_marked_is_still_to_come() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        assert!(of(&list, dir.path()).is_empty(), "a box that ships none");
        fs::write(&list, "00-one-ab berth/one:1\n01-two-cd berth/two:2\n").unwrap();
        let all = ["berth/one:1", "berth/two:2"].map(str::to_owned);
        assert_eq!(of(&list, dir.path()), all.clone().into());
        fs::write(dir.path().join("00-one-ab"), "").unwrap();
        assert_eq!(of(&list, dir.path()), all[1..].iter().cloned().collect());
        fs::write(dir.path().join("01-two-cd.begun"), "").unwrap();
        assert_eq!(of(&list, dir.path()).len(), 1);
    }
}
