//! Which images may be pulled or run here: `[docker] images`, the second line of defence behind the type files and
//! `[allow]`. Pure. Every container is checked by the name that somebody wrote: the image of a type, the image that was
//! asked for, or, for a package, the images that it is installed in and runs on.

/// Whether `[docker] images` allows the image.
///
/// # Errors
/// What to add to the configuration.
pub fn permitted(reference: &str, patterns: &[String]) -> Result<(), String> {
    if allowed(reference, patterns) {
        return Ok(());
    }
    let all: Vec<String> = patterns
        .iter()
        .map(String::as_str)
        .chain([reference])
        .map(|p| format!("{p:?}"))
        .collect();
    Err(format!(
        "[docker] images of berth.toml does not allow the image {reference}. To allow it, write `images = [{}]` there and \
         restart the supervisor",
        all.join(", ")
    ))
}

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
    fn a_refusal_says_the_whole_line() {
        let patterns = ["berth/*".to_owned()];
        assert_eq!(permitted("berth/x:1", &patterns), Ok(()));
        let said = permitted("ghcr.io/a/b:1", &patterns).unwrap_err();
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
