//! Arguments that take a sealed variable: `${secret:KEY}` stands for its value, which is put there when the process starts.
//! So the value is sealed with the others, and no order, record or container description holds it; the server's own process
//! list does.

const OPEN: &str = "${secret:";

/// An argument that is the value of this variable.
pub fn sealed_argument(key: &str) -> String {
    format!("{OPEN}{key}}}")
}

/// The variables that an argument takes, in its order.
pub fn sealed_keys(argument: &str) -> impl Iterator<Item = &str> {
    argument
        .split(OPEN)
        .skip(1)
        .filter_map(|rest| rest.split_once('}').map(|(key, _)| key))
}

/// A variable whose value an argument takes is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an argument takes the value of {0}, which is not set")]
pub struct UnsetVariable(pub String);

/// The argument with the values in place of the variables.
///
/// # Errors
/// [`UnsetVariable`], for the first that is.
pub fn unsealed<'a>(argument: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, UnsetVariable> {
    let mut pieces = argument.split(OPEN);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once('}') {
            Some((key, rest)) => {
                out += value(key).ok_or_else(|| UnsetVariable(key.to_owned()))?;
                out += rest;
            }
            // Never closed: it stands for itself.
            None => {
                out += OPEN;
                out += piece;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_where_their_names_did() {
        let value = |key: &str| (key == "A").then_some("s}${secret:A}");
        assert_eq!(unsealed("plain ${A} $", value).as_deref(), Ok("plain ${A} $"));
        // What a value holds is not looked at again.
        assert_eq!(
            unsealed("--key=${secret:A}/${secret:A}.", value).as_deref(),
            Ok("--key=s}${secret:A}/s}${secret:A}.")
        );
        assert_eq!(unsealed("${secret:B}", value), Err(UnsetVariable("B".to_owned())));
        assert_eq!(unsealed("${secret:A", value).as_deref(), Ok("${secret:A"));
        assert_eq!(sealed_keys("${secret:A}-${secret:B}").collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(sealed_keys("${secret:A").count(), 0);
        assert_eq!(sealed_argument("A"), "${secret:A}");
    }
}
