//! What pages are made of: the style and the script beside this file, and icons of lucide, which `build.rs` fetched. All of it
//! is in the binary, under an address that changes with it, so that browsers keep it for good.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::answers::{Answer, plain};

include!(concat!(env!("OUT_DIR"), "/icons.rs"));

const STYLE: &str = include_str!("assets/console.css");
const SCRIPT: &str = include_str!("assets/console.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Names all of it as it is in this binary.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    [STYLE, SCRIPT, ICON].iter().for_each(|text| hash.update(text));
    crate::model::hex(&hash.finalize()[..8])
});

/// `/assets/{version}/{name}`; of another version there is none.
pub(super) fn answer(path: &str) -> Answer {
    let named = path
        .strip_prefix("/assets/")
        .and_then(|p| p.strip_prefix(VERSION.as_str()));
    let (kind, text) = match named {
        Some("/console.css") => ("text/css; charset=utf-8", STYLE),
        Some("/console.js") => ("text/javascript; charset=utf-8", SCRIPT),
        Some("/icon.svg") => ("image/svg+xml", ICON),
        _ => {
            return plain(
                StatusCode::NOT_FOUND,
                "text/plain; charset=utf-8",
                "There is nothing at this address.",
            );
        }
    };
    let mut answer = plain(StatusCode::OK, kind, Bytes::from_static(text.as_bytes()));
    let for_good = HeaderValue::from_static("public, max-age=31536000, immutable");
    answer.headers_mut().insert(header::CACHE_CONTROL, for_good);
    answer
}

/// An icon as markup: no more than an ornament beside its word.
pub(super) fn icon(name: &str) -> &'static str {
    let found = ICONS.iter().find(|(n, _)| *n == name);
    debug_assert!(found.is_some(), "build.rs does not fetch the icon {name}");
    // Behind a comment with its licence.
    found.map_or("", |(_, svg)| svg.find("<svg").map_or("", |at| &svg[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pages_are_made_of_is_kept_for_good_and_is_no_other_version() {
        let path = |version: &str, name: &str| format!("/assets/{version}/{name}");
        for name in ["console.css", "console.js", "icon.svg"] {
            let found = answer(&path(&VERSION, name));
            assert_eq!(found.status(), 200, "{name}");
            assert!(
                found.headers()[header::CACHE_CONTROL]
                    .to_str()
                    .unwrap()
                    .contains("immutable")
            );
            assert_eq!(answer(&path("0123456789abcdef", name)).status(), 404);
        }
        assert_eq!(answer("/assets/").status(), 404);
    }

    #[test]
    fn every_icon_is_one_drawing_without_a_script() {
        for (name, _) in ICONS {
            let svg = icon(name);
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
            assert!(
                !svg.contains("<script") && !svg.contains(" on") && !svg.contains("style="),
                "{name}: {svg}"
            );
        }
    }

    /// The numbers of the design: what a first page loads, uncompressed even.
    #[test]
    fn pages_stay_light() {
        assert!(STYLE.len() + SCRIPT.len() + ICON.len() < 60 << 10);
        assert!(
            !STYLE.contains("url(") && !STYLE.contains("@import"),
            "nothing of elsewhere"
        );
        for word in ["innerHTML", "eval(", "document.write", "insertAdjacent"] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }
}
