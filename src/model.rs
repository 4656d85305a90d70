//! F0: plain types that every floor shares. Nothing here does I/O, waits, logs or reads a clock.

mod action;
mod argument;
mod audit;
mod call_limit;
mod credential;
mod etag;
mod excerpt;
mod hex;
mod id;
mod idempotency_key;
mod import;
mod instance;
mod member;
mod offboarding;
mod order;
mod principal;
mod record;
mod refusal;
mod secret;
mod sign_in;
mod source;
mod time;
mod usage;
mod user;
mod workspace;

pub use action::{
    ACTION_FIELDS, Action, MAX_OVERLAP, MEMBER_TOKEN_DAYS, OVERLAP, Outcome, RunRequest, TokenCreated, TokenView,
    UnknownField, both_of, holds_fields_as_list, other_time, unknown_field,
};
pub use argument::{UnsetVariable, sealed_argument, sealed_keys, unsealed};
pub use audit::{
    AuditChange, AuditFault, AuditFaultKind, AuditHead, AuditKind, AuditOutcome, AuditRow, AuditStatus, AuditVerified,
    ForwardStatus,
};
pub use call_limit::CallLimit;
pub use credential::{Credential, CredentialKind, CredentialView};
pub use etag::{EntityTag, EntityTags, Etag};
pub use excerpt::{Bounds, Excerpt};
pub use hex::hex;
pub use id::{
    BASE32, BoxId, INSTANCE_TOKEN_PREFIX, InstanceId, InstanceName, MEMBER_TOKEN_PREFIX, MemberName, ParseError,
    TeamName, TokenId, TypeName, WorkspaceName,
};
pub use idempotency_key::IdempotencyKey;
pub use import::ImportRules;
pub use instance::{
    Desired, Endpoint, Endpoints, Health, InstanceView, Network, PackageView, RoomView, Size, SizeLimits, State,
    WordError,
};
pub use member::{GrantView, Grantee, Level, MemberView, Role, Subject, TeamId, TeamView, TokenScope, WorkspaceRole};
pub use offboarding::{
    EndedSessions, EndedToken, EndedWay, KnownCredential, KnownToken, Offboarded, OffboardingReport,
};
pub use order::{
    AGENT_PROTOCOL, AgentEvent, AgentState, AgentStatus, Forget, Forgotten, HealthKind, HealthOrder, McpOrder,
    McpTransport, Processes, Ready, RestartPolicy, ServiceOrder, ServiceStatus, StartOrder,
};
pub use principal::{Principal, Scope, Via, Who};
pub use record::{Record, RecordId};
pub(crate) use refusal::coded;
pub use refusal::{Allowed, Counted, Refusal, Runs};
pub use secret::Secret;
pub use sign_in::{NewAccount, PassphraseHash, SIGN_IN_LINK_DAYS, SignIn, SignInLink};
pub use source::{
    HttpPlace, ImageSource, MAX_REMOTE_HEADERS, PackageSource, REMOTE_SECRET, RemoteAuth, RemoteSource, RemoteUrlError,
    Resolved, Source, check_remote_url, split_package,
};
pub use time::{date, date_time};
pub use usage::{UsageBy, UsageRow};
pub use user::{AGENT_CAPABILITIES, AGENT_USER, SERVER_USER, User};
pub use workspace::{Allowlist, WorkspaceLimits, WorkspaceView};
