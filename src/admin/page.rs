//! The page at `/`: what this is, how it does, and how to sign in. It holds no script, loads nothing from anywhere, and
//! never shows the claim code: whoever can open it has shown nothing.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use super::answers::{AdminResponse, text};

const STYLE: &str = include_str!("page.css");
const PAGE: &str = include_str!("page.html");

/// Nothing but this very style and the empty icon.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let style = BASE64.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).ok()
});

/// What the page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFacts {
    pub claimed: bool,
    /// Whether a key may claim it.
    pub key: bool,
    /// Whether instances can run.
    pub ready: bool,
    /// Of the CA, or of the certificate itself where that is not Berth's own.
    pub fingerprint: String,
    pub own_ca: bool,
}

/// The page for somebody who came by this `host[:port]`.
pub(super) fn answer(facts: &PageFacts, authority: &str) -> AdminResponse {
    let mut answer = text(StatusCode::OK, "text/html; charset=utf-8", page(facts, authority));
    if let Some(policy) = POLICY.as_ref() {
        answer
            .headers_mut()
            .insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    }
    answer
}

fn page(f: &PageFacts, authority: &str) -> String {
    let url = format!("https://{}", escaped(authority));
    let (dot, state) = match (f.claimed, f.ready) {
        (true, true) => ("", "Claimed and ready"),
        (true, false) => ("wait", "Claimed; its container engine does not answer yet"),
        (false, true) => ("wait", "Ready, waiting to be claimed"),
        (false, false) => ("wait", "Not claimed; its container engine does not answer yet"),
    };
    let command = |c: &str| format!("<pre><code>{c}</code></pre>");
    let login = if f.own_ca {
        format!("berth login {url}")
    } else {
        format!("berth login {url} --ca FILE")
    };
    let compare = "It prints a fingerprint. Compare it with the one on the box&rsquo;s screen.";
    let mut steps = if f.claimed {
        vec![
            format!(
                "With a token of its administrator, on your own computer:{}",
                command(&format!("{login} --token -"))
            ),
            compare.to_owned(),
        ]
    } else {
        vec![
            format!(
                "On your own computer, with the <code>berth</code> program:{}",
                command(&login)
            ),
            compare.to_owned(),
            "Type the claim code from the box&rsquo;s screen. It works once, and makes you the administrator."
                .to_owned(),
        ]
    };
    if !f.claimed && f.key {
        let by_key = command(&format!("{login} --key ~/.ssh/id_ed25519"));
        steps[2] += &format!(" Or use the key in the configuration of this box, instead of the code:{by_key}");
    }
    steps.push(format!(
        "From then on, every command works on this box:{}",
        command("berth status\nberth types\nberth run everything")
    ));
    let steps: Vec<String> = steps.into_iter().map(|s| format!("<li>{s}</li>")).collect();
    // Broken where a line may end, so that it fits a phone.
    let print: Vec<String> = f
        .fingerprint
        .split(':')
        .collect::<Vec<_>>()
        .chunks(4)
        .map(|c| c.join(":"))
        .collect();
    [
        ("{STYLE}", STYLE),
        ("{DOT}", dot),
        ("{STATE}", state),
        ("{HEADING}", if f.claimed { "Sign in" } else { "Claim this box" }),
        ("{STEPS}", &steps.join("\n")),
        (
            "{CERTIFICATE}",
            if f.own_ca {
                "this box&rsquo;s own CA certificate"
            } else {
                "the certificate that this box shows"
            },
        ),
        ("{FINGERPRINT}", &print.join(" ")),
    ]
    .into_iter()
    .fold(PAGE.to_owned(), |page, (mark, with)| page.replace(mark, with))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(claimed: bool) -> PageFacts {
        PageFacts {
            claimed,
            key: true,
            ready: true,
            fingerprint: "AB:CD".into(),
            own_ca: true,
        }
    }

    #[test]
    fn it_says_how_to_sign_in_at_its_own_address() {
        let open = page(&facts(false), "192.0.2.7:8443");
        for part in [
            "berth login https://192.0.2.7:8443<",
            "AB:CD",
            "waiting to be claimed",
            "--key",
        ] {
            assert!(open.contains(part), "{part} not in {open}");
        }
        let claimed = page(&facts(true), "192.0.2.7:8443");
        assert!(claimed.contains("--token -") && !claimed.contains("claim code"));
        assert!(
            !open.contains('{') || open.matches('{').count() == STYLE.matches('{').count(),
            "a mark is left"
        );
    }

    #[test]
    fn it_loads_nothing_and_repeats_nothing_unescaped() {
        let page = page(&facts(false), "<script>alert(1)</script>");
        assert!(!page.contains("<script"));
        for part in ["src=", "url(", "@import", "http://"] {
            assert!(!page.contains(part), "{part}");
        }
        assert!(
            POLICY
                .as_ref()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("default-src 'none'; style-src 'sha256-")
        );
    }
}
