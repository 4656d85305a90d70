//! Table `tokens`: hashes of tokens, by the token's id; and `tokens_by_subject`, the index from whoever a token is of to
//! its tokens, so that all of somebody's are revoked without a look at everybody's. Both are written together. An older
//! berth writes the table alone: [`TokenRows::complete`] makes the index true again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use redb::{MultimapTable, MultimapTableDefinition, ReadableMultimapTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{
    StoreError,
    table::{Broken, Rows, Table, failed_in},
    words::{Edit, edit, edit_row, text, unhex},
};
use crate::{
    model::{self, TokenId, TokenScope},
    record::TokenRecord,
};

/// Subject, as [`subject_key`] has it, to ids of tokens.
const BY_SUBJECT: MultimapTableDefinition<&str, &str> = MultimapTableDefinition::new(INDEX);
const INDEX: &str = "tokens_by_subject";

#[derive(Serialize, Deserialize)]
pub(super) struct Token {
    hash: String,
    subject: Subject,
    name: String,
    created_at: jiff::Timestamp,
    expires_at: Option<jiff::Timestamp>,
    last_used_at: Option<jiff::Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_used_from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// Absent: as far as whoever it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Scope>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edited: Option<Edit>,
}

/// `"api"` or `{"instances": [ID, …]}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    Api,
    Instances(Vec<String>),
}

/// `{"instance": ID}` or `{"member": NAME}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Subject {
    Instance(String),
    Member(String),
}

/// Tokens that reach less far than whoever they are of (`SCOPED`) stand in a table apart: an older berth knows no scopes, and
/// would let them in everywhere.
pub(super) struct TokenTable<const SCOPED: bool>;

pub(super) type Tokens = TokenTable<false>;
pub(super) type ScopedTokens = TokenTable<true>;

impl<const SCOPED: bool> Table for TokenTable<SCOPED> {
    const NAME: &'static str = if SCOPED { "scoped_tokens" } else { "tokens" };
    const MAX_ROW: usize = if SCOPED { 8 << 10 } else { 4 << 10 };
    type Key = TokenId;
    type Record = TokenRecord;
    type Row = Token;

    fn key(r: &TokenRecord) -> &TokenId {
        &r.id
    }

    fn key_text(id: &TokenId) -> std::borrow::Cow<'_, str> {
        id.as_str().into()
    }

    fn encode(r: &TokenRecord) -> Token {
        Token {
            hash: model::hex(&r.hash),
            subject: match &r.subject {
                model::Subject::Instance(id) => Subject::Instance(id.to_string()),
                model::Subject::Member(name) => Subject::Member(name.to_string()),
            },
            name: r.name.to_string(),
            created_at: r.created_at,
            expires_at: r.expires_at,
            last_used_at: r.last_used_at,
            last_used_from: r.last_used_from.map(|a| a.to_string()),
            by: r.by.as_deref().map(str::to_owned),
            scope: match &r.scope {
                TokenScope::All => None,
                TokenScope::Api => Some(Scope::Api),
                TokenScope::Instances(ids) => Some(Scope::Instances(ids.iter().map(ToString::to_string).collect())),
            },
            edited: edit_row(r.edited.as_ref()),
        }
    }

    fn decode(id: &str, row: Token) -> Result<TokenRecord, Broken> {
        Ok(TokenRecord {
            id: TokenId::parse(id).map_err(text)?,
            hash: unhex(&row.hash)?
                .try_into()
                .map_err(|_| "a token hash is not 32 bytes".to_owned())?,
            subject: match row.subject {
                Subject::Instance(id) => model::Subject::Instance(model::InstanceId::parse(&id).map_err(text)?),
                Subject::Member(name) => model::Subject::Member(model::MemberName::parse(&name).map_err(text)?),
            },
            name: row.name.into(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            last_used_from: row.last_used_from.map(|a| a.parse().map_err(text)).transpose()?,
            by: row.by.map(Into::into),
            scope: match row.scope {
                None => TokenScope::All,
                Some(Scope::Api) => TokenScope::Api,
                Some(Scope::Instances(ids)) => {
                    let ids = ids.iter().map(|id| model::InstanceId::parse(id).map_err(text));
                    TokenScope::Instances(Arc::new(ids.collect::<Result<_, _>>()?))
                }
            },
            edited: edit(row.edited),
        })
    }
}

/// `instance:ID` or `member:NAME`: no id and no name holds a colon.
fn subject_key(subject: &model::Subject) -> String {
    match subject {
        model::Subject::Instance(id) => format!("instance:{id}"),
        model::Subject::Member(name) => format!("member:{name}"),
    }
}

/// The table and its index within a commit.
pub(super) struct TokenRows<'t> {
    rows: Rows<'t, Tokens>,
    scoped: Rows<'t, ScopedTokens>,
    by_subject: MultimapTable<'t, &'static str, &'static str>,
}

impl<'t> TokenRows<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            rows: Rows::open(txn)?,
            scoped: Rows::open(txn)?,
            by_subject: txn.open_multimap_table(BY_SUBJECT).map_err(failed_in(INDEX, "open"))?,
        })
    }

    /// All of them, with a scope and without.
    pub(super) fn all(&self) -> Result<BTreeMap<TokenId, TokenRecord>, StoreError> {
        let mut all = self.rows.scan()?;
        all.extend(self.scoped.scan()?);
        Ok(all)
    }

    pub(super) fn put(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        if !token.scope.is_all() {
            return self.scoped.put(token);
        }
        let before = self.rows.get(&token.id)?;
        self.rows.put(token)?;
        match before {
            Some(before) if before.subject == token.subject => return Ok(()),
            Some(before) => self.unlink(&subject_key(&before.subject), before.id.as_str())?,
            None => {}
        }
        self.link(&subject_key(&token.subject), token.id.as_str())
    }

    pub(super) fn delete(&mut self, id: &TokenId) -> Result<(), StoreError> {
        self.scoped.delete(id)?;
        if let Some(token) = self.rows.get(id)? {
            self.unlink(&subject_key(&token.subject), id.as_str())?;
            self.rows.delete(id)?;
        }
        Ok(())
    }

    /// Deletes every token of a subject that has no scope; their ids.
    pub(super) fn delete_of(&mut self, subject: &model::Subject) -> Result<Vec<TokenId>, StoreError> {
        let key = subject_key(subject);
        let mut ids = Vec::new();
        let removed = self.by_subject.remove_all(key.as_str());
        for id in removed.map_err(failed_in(INDEX, "remove from"))? {
            let id = id.map_err(failed_in(INDEX, "read"))?;
            ids.push(TokenId::parse(id.value()).map_err(|e| super::row(INDEX, &key, e))?);
        }
        for id in &ids {
            self.rows.delete(id)?;
        }
        Ok(ids)
    }

    /// Makes the index what the table says; whether it was something else.
    pub(super) fn complete(&mut self) -> Result<bool, StoreError> {
        let tokens = self.rows.scan()?;
        let wanted: BTreeSet<(String, String)> = tokens
            .values()
            .map(|t| (subject_key(&t.subject), t.id.to_string()))
            .collect();
        let found = self.links()?;
        for (subject, id) in found.difference(&wanted) {
            self.unlink(subject, id)?;
        }
        for (subject, id) in wanted.difference(&found) {
            self.link(subject, id)?;
        }
        Ok(found != wanted)
    }

    pub(super) fn links(&self) -> Result<BTreeSet<(String, String)>, StoreError> {
        let mut all = BTreeSet::new();
        for entry in self.by_subject.iter().map_err(failed_in(INDEX, "read"))? {
            let (subject, ids) = entry.map_err(failed_in(INDEX, "read"))?;
            for id in ids {
                let id = id.map_err(failed_in(INDEX, "read"))?;
                all.insert((subject.value().to_owned(), id.value().to_owned()));
            }
        }
        Ok(all)
    }

    fn link(&mut self, subject: &str, id: &str) -> Result<(), StoreError> {
        let linked = self.by_subject.insert(subject, id);
        linked.map(drop).map_err(failed_in(INDEX, "write to"))
    }

    fn unlink(&mut self, subject: &str, id: &str) -> Result<(), StoreError> {
        let unlinked = self.by_subject.remove(subject, id);
        unlinked.map(drop).map_err(failed_in(INDEX, "remove from"))
    }
}
