//! What the supervisor's sandbox hides from it, asked of a unit outside (`berth-look@.service`): a question on one line,
//! and the answer until the connection ends.

use std::{fmt, io, path::Path, str::FromStr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// Where the unit's socket is; on the host image alone.
pub const SOCKET: &str = "/run/berth-look/socket";
/// An answer may be this long, in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// A question may be this long, in bytes.
pub const MAX_QUESTION: u64 = 64;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// [`super::storage()`] of the supervisor's state; an empty answer is none.
    Disk,
    /// `berth doctor`; the answer is its exit status on a line, then its output.
    Doctor { json: bool, hardening: bool },
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("disk"),
            Self::Doctor { json, hardening } => {
                f.write_str("doctor")?;
                f.write_str(if *json { " json" } else { "" })?;
                f.write_str(if *hardening { " hardening" } else { "" })
            }
        }
    }
}

/// Why a line asks nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("the question is none of `disk` and `doctor [json] [hardening]`")]
    Unknown,
    #[error("doctor has no {0:?}")]
    Option(String),
}

impl FromStr for Question {
    type Err = QuestionError;

    fn from_str(line: &str) -> Result<Self, QuestionError> {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("disk") if words.next().is_none() => Ok(Self::Disk),
            Some("doctor") => {
                let (mut json, mut hardening) = (false, false);
                for word in words {
                    match word {
                        "json" => json = true,
                        "hardening" => hardening = true,
                        other => return Err(QuestionError::Option(other.to_owned())),
                    }
                }
                Ok(Self::Doctor { json, hardening })
            }
            _ => Err(QuestionError::Unknown),
        }
    }
}

/// Asks; none where there is nobody outside to be asked.
///
/// # Errors
/// When the answer does not come, or not within `patience`.
pub async fn ask(question: Question, patience: Duration) -> Option<io::Result<String>> {
    if !Path::new(SOCKET).exists() {
        return None;
    }
    let asked = async {
        let mut stream = UnixStream::connect(SOCKET).await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "it took too long");
    Some(timeout(patience, asked).await.unwrap_or_else(|_| Err(late())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_read_as_they_are_written() {
        let doctor = |json, hardening| Question::Doctor { json, hardening };
        for question in [
            Question::Disk,
            doctor(false, false),
            doctor(true, false),
            doctor(false, true),
            doctor(true, true),
        ] {
            let line = format!("{question}\n");
            assert!(line.len() as u64 <= MAX_QUESTION);
            assert_eq!(line.parse(), Ok(question));
        }
        for bad in ["", "disk x", "doctor --config /etc/shadow", "sh"] {
            assert!(bad.parse::<Question>().is_err(), "{bad}");
        }
    }
}
