//! What a box does while its power is cut: instances are made and removed, without an end. It says in lines what was
//! asked and what was acknowledged.

/// Makes and removes without an end, and says what was asked and what was acknowledged.
pub(crate) const WORK: &str = r#"
field() { sed -n "s/^ *\"$1\": \"\(.*\)\".*/\1/p" | head -n 1; }
n=0 last=
while :; do
    n=$((n + 1))
    type=everything id=
    [ $((n % 2)) = 0 ] || type=memory
    # It may be refused: the disk of those that are still being removed is promised to them.
    if made=$(berth run $type --name cut-ROUND-$n --no-wait --json); then
        id=$(echo "$made" | field id)
        echo "made $id $(echo "$made" | field token)"
    fi
    if [ -n "$last" ]; then
        echo "asks $last"
        berth rm "$last" --no-wait --json >/dev/null && echo "gone $last"
    fi
    last=$id
done
"#;

/// One line of the work's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Acknowledged.
    Made { id: String, token: String },
    /// About to be asked to go.
    Asks { id: String },
    /// Acknowledged to go.
    Gone { id: String },
}

/// What the work said; a last line without its end may be cut short and does not count.
pub(crate) fn events(said: &str) -> Vec<Event> {
    whole_lines(said).filter_map(event).collect()
}

/// What the commands of the work said beside that: why they were refused.
pub(crate) fn refusals(said: &str) -> Vec<&str> {
    let beside = |line: &&str| !line.trim().is_empty() && event(line).is_none();
    whole_lines(said).filter(beside).collect()
}

fn whole_lines(said: &str) -> std::str::Lines<'_> {
    said.rfind('\n').map_or("", |at| &said[..at]).lines()
}

fn event(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(match words.as_slice() {
        ["made", id, token] => Event::Made {
            id: (*id).to_owned(),
            token: (*token).to_owned(),
        },
        ["asks", id] => Event::Asks { id: (*id).to_owned() },
        ["gone", id] => Event::Gone { id: (*id).to_owned() },
        _ => return None,
    })
}
