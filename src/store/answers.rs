//! Table `answers`: what writes with an idempotency key came to and were answered, by the hash of whose key it is. Sealed as a
//! whole: an answer may have a secret. An older berth ignores it, and does such a write again.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::{
    table::{Broken, Table},
    words::{text, unhex},
};
use crate::{
    model,
    record::{AnswerId, AnswerRecord, Sealed},
};

#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    who: String,
    at: jiff::Timestamp,
    /// In base64.
    sealed: String,
}

pub(super) struct Answers;

impl Table for Answers {
    const NAME: &'static str = "answers";
    const MAX_ROW: usize = 1 << 20;
    type Key = AnswerId;
    type Record = AnswerRecord;
    type Row = Answer;

    fn key(r: &AnswerRecord) -> &AnswerId {
        &r.id
    }

    fn key_text(id: &AnswerId) -> std::borrow::Cow<'_, str> {
        model::hex(id).into()
    }

    fn encode(r: &AnswerRecord) -> Answer {
        Answer {
            who: r.who.clone(),
            at: r.at,
            sealed: BASE64.encode(&r.sealed.0),
        }
    }

    fn decode(id: &str, row: Answer) -> Result<AnswerRecord, Broken> {
        let id = unhex(id)?.try_into();
        Ok(AnswerRecord {
            id: id.map_err(|_| "its key is not 32 bytes".to_owned())?,
            who: row.who,
            at: row.at,
            sealed: Sealed(BASE64.decode(row.sealed).map_err(text)?),
        })
    }
}
