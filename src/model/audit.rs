//! A row of the audit: what was asked of the box, by whom, and what came of it. Never what was sent or answered.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TokenId;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditKind {
    /// A request at an instance's address that has ended.
    Call,
    /// The answer to such a request has begun and goes on; its [`AuditKind::Call`] follows, with this row's number as `of`.
    Stream,
    /// Something was changed, or is about to be: the row is there before the change is.
    Act,
    /// Something was asked for that was refused.
    Refusal,
    /// Somebody came in.
    SignIn,
    /// Somebody looked at a screen, or took or gave up its controls.
    Screen,
    /// The box itself: started, stopped, rows removed by age.
    Box,
}

impl AuditKind {
    /// All, as rows name them.
    pub const WORDS: &[&str] = &["call", "stream", "act", "refusal", "sign-in", "screen", "box"];

    /// As rows name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Stream => "stream",
            Self::Act => "act",
            Self::Refusal => "refusal",
            Self::SignIn => "sign-in",
            Self::Screen => "screen",
            Self::Box => "box",
        }
    }
}

/// How something went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    Ok,
    /// The server answered with an error (JSON-RPC, or HTTP 4xx or 5xx).
    Error,
    /// The tool said that it failed (`isError` of MCP).
    ToolError,
    /// The box refused it: 4xx.
    Refused,
    /// The box or the instance could not do it: 5xx.
    Failed,
    /// The right to it ended before the answer did.
    Cut,
    /// Whoever asked went away before the answer had ended.
    ClientGone,
    /// The answer broke off.
    Broken,
    /// It goes on.
    Begun,
}

impl AuditOutcome {
    /// All, as rows name them.
    pub const WORDS: &[&str] = &[
        "ok",
        "error",
        "tool-error",
        "refused",
        "failed",
        "cut",
        "client-gone",
        "broken",
        "begun",
    ];

    /// As rows name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::ToolError => "tool-error",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cut => "cut",
            Self::ClientGone => "client-gone",
            Self::Broken => "broken",
            Self::Begun => "begun",
        }
    }
}

/// One thing that an act changed. A secret has no value here: it is said to be set or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditChange {
    /// The record, as `workspace default`.
    pub of: String,
    /// Which of its fields; none where the record was made or removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// None where there was nothing before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// None where nothing is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

type Text<'a> = Option<Cow<'a, str>>;

macro_rules! rows {
    (
        text { $($(#[$tdoc:meta])* $text:ident,)* }
        number { $($(#[$ndoc:meta])* $number:ident: $of:ty,)* }
    ) => {
        /// A row. What does not apply, or is not known, is absent.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub struct AuditRow<'a> {
            /// Its number, from 1 on, without gaps; given when the row is chained.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub seq: Option<u64>,
            /// Which run of the supervisor it is from.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub run: Option<String>,
            /// Its number in that run, from 1 on. One that is missing was lost.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub n: Option<u64>,
            /// When it was asked, to the microsecond.
            pub time: jiff::Timestamp,
            pub kind: AuditKind,
            pub outcome: AuditOutcome,
            $($(#[$tdoc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $text: Text<'a>,)*
            $($(#[$ndoc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $number: Option<$of>,)*
            /// What an act changed.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub changes: Vec<AuditChange>,
            /// Base64url of SHA-256 over the hash of the row before (its bytes) and this row's own text up to the comma in
            /// front of this field.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub hash: Option<String>,
        }

        impl AuditRow<'_> {
            /// Columns that a filter may name: their values compare as texts.
            pub const COLUMNS: &'static [&'static str] =
                &["kind", "outcome", $(stringify!($text),)* $(stringify!($number),)*];

            /// A new row, of which nothing else is said.
            pub fn new(time: jiff::Timestamp, kind: AuditKind, outcome: AuditOutcome) -> Self {
                Self {
                    seq: None,
                    run: None,
                    n: None,
                    // No clock tells more.
                    time: jiff::Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time),
                    kind,
                    outcome,
                    $($text: None,)*
                    $($number: None,)*
                    changes: Vec::new(),
                    hash: None,
                }
            }

            /// With texts of its own.
            pub fn into_owned(self) -> AuditRow<'static> {
                AuditRow {
                    seq: self.seq,
                    run: self.run,
                    n: self.n,
                    time: self.time,
                    kind: self.kind,
                    outcome: self.outcome,
                    $($text: self.$text.map(|text| text.into_owned().into()),)*
                    $($number: self.$number,)*
                    changes: self.changes,
                    hash: self.hash,
                }
            }

            /// The value of one of [`Self::COLUMNS`], where the row has one.
            pub fn column(&self, name: &str) -> Option<Cow<'_, str>> {
                match name {
                    "kind" => Some(self.kind.as_str().into()),
                    "outcome" => Some(self.outcome.as_str().into()),
                    $(stringify!($text) => self.$text.as_deref().map(Cow::from),)*
                    $(stringify!($number) => self.$number.map(|n| n.to_string().into()),)*
                    _ => None,
                }
            }
        }
    };
}

rows! {
    text {
        /// The member who asked.
        member,
        /// Who asked, where it was no member: `root`, `uid 1000`, `instance …`, `nobody`, `berth`.
        by,
        /// The public id of the token that was shown.
        token,
        /// The door: `endpoint`, `api`, `socket`, `screen`, …
        via,
        /// Where the request came from.
        address,
        /// What the client calls itself: of MCP's `clientInfo` where it said so, else of `User-Agent`. Its own word.
        client,
        /// The workspace of what it is about.
        workspace,
        gateway,
        /// The instance's id.
        instance,
        /// The instance's type.
        server,
        /// The version of what the instance runs.
        version,
        /// The method of MCP; or of HTTP, in capitals, where no message was sent.
        method,
        /// The name of the tool or of the prompt.
        tool,
        /// What was asked for, as policy names it.
        action,
        /// On what: `instance …`, `member …`, `workspace …`.
        on,
        /// The stable code of an error of the box's.
        code,
        /// `legacy` or `modern`: which of MCP's eras the client speaks.
        era,
        /// What let them in: `owner`, `admin`, `member …`, `team …`, or the token by itself.
        grant,
        /// The trace id of the request's `traceparent` (W3C Trace Context).
        trace,
        /// What else there is to say, in words.
        note,
    }
    number {
        /// The HTTP status of the answer.
        status: u16,
        /// From the whole head of the request to the end of its answer; of a stream that has begun, to its head.
        latency_us: u64,
        /// The length of what was sent.
        bytes_in: u64,
        /// The length of what was answered.
        bytes_out: u64,
        /// The row of the same run in which it had begun, by its `n`.
        of: u64,
        /// So many more of the kind are not rows of their own, since the last that was.
        omitted: u64,
    }
}

impl<'a> AuditRow<'a> {
    /// Who asked, by which door, with which token, from where.
    #[must_use]
    pub fn asked_by(mut self, by: &'a super::Principal) -> Self {
        match by.who() {
            super::Who::Member(name) => self.member = Some(name.as_str().into()),
            _ => self.by = Some(by.name().into()),
        }
        self.token = by.token().map(|t: &TokenId| t.as_str().into());
        self.via = Some(by.via().as_str().into());
        self.address = by.address().map(|a| a.to_string().into());
        self
    }
}

/// The newest row: whoever has noted it down can tell later whether anything before it was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditHead {
    /// How many rows there ever were.
    pub seq: u64,
    /// The hash of the newest, base64url.
    pub hash: String,
}

/// How the audit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditStatus {
    #[serde(flatten)]
    pub head: AuditHead,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Rows that wait for the disk.
    pub waiting: u64,
    /// Rows that were lost since the supervisor started, because the disk took none for too long.
    pub lost: u64,
    /// Why the disk takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How the forwarding of rows to one receiver is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForwardStatus {
    /// Which: `syslog HOST:PORT`, or `file PATH`.
    pub to: String,
    /// The number of the newest row that was sent.
    pub sent: u64,
    /// Rows that were not sent yet.
    pub behind: u64,
    /// Rows that were removed by age or size before they were sent, since the supervisor started.
    pub lost: u64,
    /// Why none are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What verification came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerified {
    /// Rows that were found as they were written, from the first kept row on.
    pub rows: u64,
    /// The first row that is kept: those before were removed by age or size, which a signed checkpoint says.
    pub first: u64,
    pub head: AuditHead,
    /// The first thing that is wrong; none where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<AuditFault>,
}

/// The first row that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditFault {
    /// Its number.
    pub row: u64,
    pub what: AuditFaultKind,
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditFaultKind {
    /// Another text than was written.
    Changed,
    /// Missing here: removed, or moved.
    Missing,
    /// Missing at the end.
    Truncated,
    /// The checkpoint that says where the rows begin is not the box's.
    Checkpoint,
    /// The note of the newest row is not the box's.
    Head,
}

impl std::fmt::Display for AuditFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let row = self.row;
        match self.what {
            AuditFaultKind::Changed => write!(f, "row {row} is not as it was written"),
            AuditFaultKind::Missing => write!(f, "row {row} is not where it was written: removed, or moved"),
            AuditFaultKind::Truncated => write!(f, "row {row} and what follows are missing at the end"),
            AuditFaultKind::Checkpoint => {
                write!(f, "the checkpoint before row {row} is not signed by this box's key")
            }
            AuditFaultKind::Head => write!(f, "the note of the newest row, {row}, is not signed by this box's key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_and_every_word_is_known() {
        let mut row = AuditRow::new(jiff::Timestamp::UNIX_EPOCH, AuditKind::SignIn, AuditOutcome::ToolError);
        row.tool = Some("say \"hello\"".into());
        row.status = Some(200);
        row.changes = vec![AuditChange {
            of: "workspace default".into(),
            field: Some("cpus".into()),
            from: None,
            to: Some("2".into()),
        }];
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(
            text,
            r#"{"time":"1970-01-01T00:00:00Z","kind":"sign-in","outcome":"tool-error","tool":"say \"hello\"","status":200,"changes":[{"of":"workspace default","field":"cpus","to":"2"}]}"#
        );
        assert_eq!(serde_json::from_str::<AuditRow<'_>>(&text).unwrap(), row);
        assert_eq!(row.column("tool").as_deref(), Some("say \"hello\""));
        assert_eq!(row.column("status").as_deref(), Some("200"));
        assert_eq!(row.column("member"), None);
        for word in AuditKind::WORDS {
            let kind: AuditKind = serde_json::from_value((*word).into()).unwrap();
            assert_eq!(kind.as_str(), *word);
        }
        for word in AuditOutcome::WORDS {
            let outcome: AuditOutcome = serde_json::from_value((*word).into()).unwrap();
            assert_eq!(outcome.as_str(), *word);
        }
    }
}
