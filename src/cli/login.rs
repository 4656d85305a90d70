//! `berth login`: who is this box, is it the one on whose screen the person looks, and may they in.
//!
//! ```text
//! ask who it is (trusting nobody) -> the CA's fingerprint, compared -> anew, trusting that CA alone -> claim or token
//! ```
//!
//! Nothing secret is sent before the certificate is known to be right.

use anyhow::{Context as _, Result, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

use super::{
    args::Login,
    client::Supervisor,
    context::{self, Context, Contexts},
    key, print, prompt,
    remote::{self, Address, Trust},
};
use crate::{
    api::{Claiming, Hello, Route, Whoami},
    claim,
    model::{Outcome, Secret, TokenCreated},
    output,
    tls::colons,
};

pub(super) async fn run(args: Login, json: bool) -> Result<()> {
    let address: Address = args.url.parse()?;
    let name = args.name.clone().unwrap_or_else(|| context::name_for(&address));
    if !context::valid_name(&name) {
        bail!("{name:?} cannot be a context's name: use letters, digits, '-', '_' and '.'; `local` is taken");
    }
    let mut contexts = Contexts::load()?;
    if let Some(other) = contexts.contexts.get(&name).filter(|c| c.url != address.to_string()) {
        bail!(
            "the context {name} is another box, {}: give this one a --name",
            other.url
        );
    }
    context::check_writable()?;
    let stranger = Supervisor::remote(&name, address.clone(), Trust::Anyone, None);
    let hello: Hello = stranger
        .get("/claim")
        .await
        .with_context(|| format!("cannot ask {address} which box it is"))?;
    let seen = identity(&args, &address, &hello).await?;
    confirm(&args, &address, &seen)?;
    let (token, ends) = match hello.claimed {
        true => (known(&args)?, None),
        false => {
            let created = claim(&args, &address, &name, &seen).await?;
            (created.token, created.view.expires_at)
        }
    };
    let Trust::Pinned { ca, name: tls_name } = &seen.trust else {
        bail!("there is no CA to trust");
    };
    contexts.contexts.insert(
        name.clone(),
        Context {
            url: address.to_string(),
            tls_name: tls_name.clone(),
            ca_fingerprint: colons(&seen.anchor),
            ca: ca.clone(),
            token: token.clone(),
        },
    );
    let member = Supervisor::remote(&name, address.clone(), seen.trust, Some(token.clone()));
    let known: Result<Whoami> = member.get(Route::Whoami.path()).await;
    if hello.claimed {
        // A token that does not work is not kept.
        known.as_ref().map_err(|e| anyhow!("{e:#}"))?;
    }
    contexts.current = Some(name.clone());
    if let Err(e) = contexts.save() {
        // A claim's token exists once: better on the person's own screen than lost.
        if !hello.claimed {
            print::problem(&format_args!(
                "keep this token, it is shown only once: {}",
                token.expose()
            ));
        }
        return Err(e);
    }
    let known = known?;
    if json {
        return print::json(&serde_json::json!({
            "context": name, "url": address.to_string(), "box_id": known.box_id, "member": known.member, "ca_fingerprint": colons(&seen.anchor),
            "claimed_now": !hello.claimed, "expires_at": ends,
        }));
    }
    let how = if hello.claimed { "Logged in to" } else { "Claimed" };
    print::out(&format!(
        "{how} {address} as {}. The context {name} is in use: every command now works on that box.\nTry `berth list`, {}; \
         `berth context` lists and switches boxes.\n",
        known.name,
        if known.owner {
            "`berth status`, `berth run everything`"
        } else {
            "`berth connect NAME`"
        }
    ))?;
    match ends {
        None => Ok(()),
        Some(ends) => print::out(&format!(
            "Your token ends at {}. Before then, make another one with `berth token create --member {}`, and log in with it.\n",
            print::short(ends),
            known.name
        )),
    }
}

/// Who the box says it is.
struct Seen {
    trust: Trust,
    /// SHA-256 of its CA certificate, or of its own where the CA is not Berth's.
    anchor: [u8; 32],
    /// Whether the person must compare it.
    compare: bool,
}

async fn identity(args: &Login, address: &Address, hello: &Hello) -> Result<Seen> {
    if let Some(file) = &args.ca {
        let ca = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let name = match hello.ca {
            Some(_) => hello.domain.clone(),
            None => address.host.clone(),
        };
        let trust = Trust::Pinned { ca, name };
        let stream = remote::connect(address, &trust).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|c| c.first());
        let shown = shown.ok_or_else(|| anyhow!("{address} showed no certificate"))?;
        let anchor = match &hello.ca {
            Some(pem) => digest(pem)?,
            None => Sha256::digest(shown).into(),
        };
        return Ok(Seen {
            trust,
            anchor,
            compare: false,
        });
    }
    let Some(ca) = hello.ca.clone() else {
        bail!(
            "this box has its own certificate files: name the CA file to trust with --ca (the system's is often \
             /etc/ssl/certs/ca-certificates.crt)"
        );
    };
    Ok(Seen {
        anchor: digest(&ca)?,
        trust: Trust::Pinned {
            ca,
            name: hello.domain.clone(),
        },
        compare: true,
    })
}

fn digest(pem: &str) -> Result<[u8; 32]> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes());
    let certificate = certificate.map_err(|_| anyhow!("the box sent no certificate that can be read"))?;
    Ok(Sha256::digest(&certificate).into())
}

/// Makes sure that this is the box that the person means.
fn confirm(args: &Login, address: &Address, seen: &Seen) -> Result<()> {
    let shown = colons(&seen.anchor);
    if let Some(wanted) = &args.fingerprint {
        let hex: String = wanted.chars().filter(char::is_ascii_hexdigit).collect();
        if hex.eq_ignore_ascii_case(&shown.replace(':', "")) {
            return Ok(());
        }
        bail!(
            "{address} has a different fingerprint, {shown}: it is another box, or somebody is between you and the box; \
             nothing was sent"
        );
    }
    if !seen.compare {
        return Ok(());
    }
    if !prompt::person() {
        bail!(
            "there is no terminal to compare the fingerprint {shown}: give the one on the box's screen with --fingerprint"
        );
    }
    output::error_line(&format!(
        "The box at {address} shows this fingerprint (SHA-256 of its CA certificate):\n\n  {shown}\n"
    ));
    if prompt::yes("Is it the same as on the box's own screen?")? {
        return Ok(());
    }
    bail!("not logged in: nothing was sent")
}

/// A token that was made elsewhere.
fn known(args: &Login) -> Result<Secret> {
    if args.code.is_some() || args.key.is_some() {
        bail!(
            "this box is claimed already: log in with a token, `berth login {} --token -`",
            args.url
        );
    }
    if args.token.is_some() {
        return prompt::piped().map(Secret::new);
    }
    if !prompt::person() {
        bail!("this box is claimed already: log in with a token of yours, from a pipe, with --token -");
    }
    output::error_line("This box is claimed. An owner makes a token for you with `berth token create --member NAME`.");
    prompt::unseen("Token:").map(Secret::new)
}

async fn claim(args: &Login, address: &Address, name: &str, seen: &Seen) -> Result<TokenCreated> {
    if args.token.is_some() {
        bail!("this box is not claimed yet, so it has no tokens: claim it with the code on its screen");
    }
    let pinned = Supervisor::remote(name, address.clone(), seen.trust.clone(), None);
    let called = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned());
    let called = Some(
        format!("login from {}", called.unwrap_or_default())
            .chars()
            .take(60)
            .collect(),
    );
    let claiming = match &args.key {
        Some(file) => {
            let pair = key::read(file)?;
            // Asked anew: this answer is the box's own for certain.
            let hello: Hello = pinned.get("/claim").await?;
            let nonce = BASE64.decode(&hello.nonce).context("the box's nonce cannot be read")?;
            let signature = pair.sign(&claim::message(&seen.anchor, &nonce));
            Claiming::Key {
                nonce: hello.nonce,
                signature: BASE64.encode(signature),
                name: called,
            }
        }
        None => Claiming::Code {
            code: code(args)?,
            name: called,
        },
    };
    match pinned.claim(&claiming).await? {
        Outcome::Token(created) => Ok(created),
        _ => bail!("the answer of the box was not understood; does it have another version?"),
    }
}

fn code(args: &Login) -> Result<Secret> {
    if args.code.is_some() {
        return prompt::piped().map(Secret::new);
    }
    if !prompt::person() {
        bail!("there is no terminal to type the claim code: give it from a pipe, with --code -");
    }
    prompt::unseen("Claim code, from the box's screen:").map(Secret::new)
}
