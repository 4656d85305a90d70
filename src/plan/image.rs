//! Which images may be pulled or run here: `[docker] images`, the second line of defence behind the type files and
//! `[allow]`. Pure. Every container is checked by the name that somebody wrote: the image of a type, the image that was
//! asked for, or, for a package, the images that it is installed in and runs on.

use crate::model::Refusal;

/// Whether `[docker] images` allows the image.
///
/// # Errors
/// [`Refusal::ImageNotAllowed`].
pub fn permitted(reference: &str, patterns: &[String]) -> Result<(), Refusal> {
    if allowed(reference, patterns) {
        return Ok(());
    }
    Err(Refusal::ImageNotAllowed {
        image: reference.to_owned(),
        allowed: patterns.to_vec(),
    })
}

/// Whether the image of a type may be fetched where it is not on the box: by a name that says its registry, and by digest.
/// A short name is somebody's on the public registry, and whoever has it would get the instance's credentials; the images
/// of the catalog come with the box.
pub fn of_a_type_can_be_fetched(reference: &str) -> bool {
    names_a_registry(reference) && reference.contains("@sha256:")
}

/// The name by which an image that a person asked for is fetched: with its registry, which for a short name is the public
/// one. Berth's own images are on none.
///
/// # Errors
/// Why it is not fetched, in words that go after the image's name.
pub fn fetched_as(reference: &str) -> Result<String, &'static str> {
    if names_a_registry(reference) {
        return Ok(reference.to_owned());
    }
    match reference.split_once('/') {
        Some(("berth", _)) => Err("is one of Berth's own, which no registry has"),
        Some(_) => Ok(format!("docker.io/{reference}")),
        None => Ok(format!("docker.io/library/{reference}")),
    }
}

/// Whether the first part of a name is a registry's host, as Docker tells it: with a dot or a port, or `localhost`.
fn names_a_registry(reference: &str) -> bool {
    let host = reference.split_once('/').map(|(host, _)| host);
    host.is_some_and(|h| h.contains(['.', ':']) || h == "localhost")
}

/// What to do about images that are not on this box and are not fetched.
pub const HOW_TO_GET: &str = "load it with `berth image load`, or build it in a checkout with `make images`";

/// Whether one of the shell-style patterns (`*` stands for anything, `/` included) matches the reference.
pub fn allowed(reference: &str, patterns: &[String]) -> bool {
    patterns.iter().any(|p| matches(p.as_bytes(), reference.as_bytes()))
}

fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_fetched_from_where_they_say() {
        for (reference, name) in [
            ("ghcr.io/a/b:1", Ok("ghcr.io/a/b:1")),
            ("localhost/a:1", Ok("localhost/a:1")),
            ("localhost:5000/a@sha256:00", Ok("localhost:5000/a@sha256:00")),
            ("mcp/time:1", Ok("docker.io/mcp/time:1")),
            ("alpine", Ok("docker.io/library/alpine")),
            ("alpine:3.2", Ok("docker.io/library/alpine:3.2")),
            ("berth.example/x", Ok("berth.example/x")),
            ("berth/mcp-time:1", Err(())),
        ] {
            assert_eq!(
                fetched_as(reference).map_err(drop),
                name.map(str::to_owned),
                "{reference}"
            );
        }
        for (reference, fetched) in [
            ("ghcr.io/a/b@sha256:00", true),
            ("ghcr.io/a/b:1", false),
            ("mcp/time@sha256:00", false),
            ("berth/mcp-time:1", false),
        ] {
            assert_eq!(of_a_type_can_be_fetched(reference), fetched, "{reference}");
        }
    }

    #[test]
    fn a_refusal_says_the_whole_line() {
        let patterns = ["berth/*".to_owned()];
        assert_eq!(permitted("berth/x:1", &patterns), Ok(()));
        let said = permitted("ghcr.io/a/b:1", &patterns).unwrap_err().to_string();
        assert!(said.contains(r#"`images = ["berth/*", "ghcr.io/a/b:1"]`"#), "{said}");
    }

    #[test]
    fn patterns() {
        let check = |p: &str, t: &str| allowed(t, &[p.to_owned()]);
        assert!(check("berth/*", "berth/mcp-everything:1"));
        assert!(check("*", ""));
        assert!(check("ghcr.io/*/server:*", "ghcr.io/a/b/server:1"));
        assert!(check("a*b*c", "aXbbYc"));
        assert!(!check("berth/*", "evil/berth/x"));
        assert!(!check("berth/*", "berth"));
        assert!(!check("a*c", "acb"));
        assert!(!check("", "x"));
        assert!(!allowed("berth/x", &[]));
    }
}
