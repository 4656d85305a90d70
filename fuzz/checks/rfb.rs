//! A viewer's half of RFB: however the bytes are cut, the same passes; without the controls no key, pointer or text does.

use berth::screen::{rfb::Filter, shot::Shot};

fn filtered(data: &[u8], cut: usize, control: bool) -> (Vec<u8>, bool) {
    let (mut filter, mut out) = (Filter::default(), Vec::new());
    let mut fine = filter.feed(b"RFB 003.008\n\x01\x01", false, &mut Vec::new()).is_ok();
    for piece in data.chunks(cut) {
        fine = fine && filter.feed(piece, control, &mut out).is_ok();
    }
    (out, fine)
}

/// The first byte says how the rest is cut.
pub(crate) fn check(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let cut = usize::from(cut).max(1);
    for control in [false, true] {
        let (whole, fine) = filtered(data, data.len().max(1), control);
        let (pieces, also) = filtered(data, cut, control);
        assert_eq!(fine, also);
        if fine {
            assert_eq!(whole, pieces);
        }
        assert!(whole.len() <= data.len() + 4);
        if !control {
            // What passed is judged again: all of it passes.
            let (again, fine) = filtered(&whole, 1, false);
            assert!(fine && again == whole);
        }
    }
    // A display's half: never more than an error.
    let mut shot = Shot::default();
    for piece in data.chunks(cut) {
        if shot.feed(piece, &mut Vec::new()).is_err() {
            break;
        }
    }
}
