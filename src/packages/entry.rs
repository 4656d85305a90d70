//! Which program of a package or an image is run. Pure.

use crate::model::{ImageSource, PackageSource};

/// The program of a package: the one that was asked for, the only one, or the one that is called like the package
/// (what `npx` and `uvx` take).
///
/// # Errors
/// What the choices are.
pub(super) fn command(p: &PackageSource, node: bool, bins: &[String]) -> Result<Vec<String>, String> {
    let folder = if node {
        "/opt/mcp/node_modules/.bin"
    } else {
        "/opt/mcp/bin"
    };
    let bare = p.package.split('[').next().unwrap_or(&p.package);
    let short = bare.rsplit('/').next().unwrap_or(bare);
    let has = |name: &str| bins.iter().any(|b| b == name).then(|| name.to_owned());
    let chosen = match (&p.bin, bins) {
        (Some(bin), _) => has(bin),
        (None, [only]) => Some(only.clone()),
        (None, _) => has(short),
    };
    let all = bins.join(", ");
    match chosen {
        Some(bin) => Ok(vec![format!("{folder}/{bin}")]),
        None if bins.is_empty() => Err(format!("the package {bare} has no program to run: it is a library")),
        None => Err(match &p.bin {
            Some(bin) => format!("the package {bare} has no program {bin}; it has: {all}"),
            None => format!("the package {bare} has several programs: {all}; choose one with --bin"),
        }),
    }
}

/// The command of an image, as `docker run` puts it together.
///
/// # Errors
/// What is missing.
pub(super) fn image_command(i: &ImageSource, entrypoint: &[String], cmd: &[String]) -> Result<Vec<String>, String> {
    let mut command = if i.command.is_empty() {
        entrypoint.to_vec()
    } else {
        i.command.clone()
    };
    if !i.args.is_empty() {
        command.extend(i.args.iter().cloned());
    } else if i.command.is_empty() {
        command.extend(cmd.iter().cloned());
    }
    if command.first().is_none_or(String::is_empty) {
        return Err(format!(
            "the image {} names no program to run; give one with --command",
            i.image
        ));
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs() {
        let check = |package: &str, bin: Option<&str>, bins: &[&str]| {
            let p = PackageSource {
                package: package.into(),
                version: None,
                bin: bin.map(str::to_owned),
                args: vec![],
            };
            let bins: Vec<String> = bins.iter().map(|b| (*b).to_owned()).collect();
            command(&p, true, &bins).map(|c| c[0].rsplit('/').next().unwrap_or_default().to_owned())
        };
        assert_eq!(check("@s/a", None, &["x"]), Ok("x".into()));
        assert_eq!(check("@s/a", None, &["a", "x"]), Ok("a".into()));
        assert_eq!(check("@s/a", Some("x"), &["a", "x"]), Ok("x".into()));
        let said = check("@s/a", None, &["x", "y"]).expect_err("ambiguous");
        assert!(said.contains("x, y") && said.contains("--bin"), "{said}");
        assert!(
            check("@s/a", Some("z"), &["x"])
                .expect_err("none")
                .contains("it has: x")
        );
        assert!(check("a", None, &[]).expect_err("library").contains("no program"));
    }

    #[test]
    fn images() {
        let s = |all: &[&str]| all.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
        let i = |command: &[&str], args: &[&str]| ImageSource {
            image: "x".into(),
            command: s(command),
            args: s(args),
            http: None,
        };
        let of = |i: &ImageSource| image_command(i, &s(&["e"]), &s(&["c"])).expect("a command");
        assert_eq!(of(&i(&[], &[])), s(&["e", "c"]));
        assert_eq!(of(&i(&[], &["a"])), s(&["e", "a"]));
        assert_eq!(of(&i(&["p"], &[])), s(&["p"]));
        assert_eq!(of(&i(&["p"], &["a"])), s(&["p", "a"]));
        assert!(image_command(&i(&[], &[]), &[], &[]).is_err());
    }
}
