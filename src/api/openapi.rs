//! The OpenAPI document of the API, made from the table of routes, the table of codes, and the types that travel. It is
//! served at `/api/openapi.json`; `docs/openapi.json` is a copy, so that a change of the API is seen where it is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value as Json, json};

use super::{
    codes::{CODES, Code},
    events::EventKind,
    problem::{PROBLEM, RequestError},
    query::{MAX_CURSOR, MAX_PAGE, MAX_TEXT, Value},
    routes::{Body, CLAIM, COMMON, PAGE, Route, Row},
};
use crate::model::{Grantee, IdempotencyKey, InstanceId, MemberName, Refusal, TeamId, TokenId, WorkspaceName};

/// `*`, or a list of entity tags, as a regular expression (ECMA-262).
const TAGS: &str = r#"^(\*|(W/)?"[!#-~]*"([ \t]*,[ \t]*(W/)?"[!#-~]*")*)$"#;

/// Where the forms are.
const SCHEMAS: &str = "#/components/schemas/";

const ABOUT: &str = "\
The API of a box that hosts MCP servers. Over HTTPS it is below `/api` and takes the token of a member as a bearer token; on \
the admin socket of the box the same paths are at the root, without a token. What the caller may not know of is answered as \
what is not there.

An error is a problem of RFC 9457. Programs look at its `code`, which does not change; each code has a form `Problem.CODE` \
with the fields that it has. New fields may come with any version, in answers and in errors.

A list is answered whole, or with `limit` in pages: `Link` tells the next one.

A record has an `ETag`, which changes with its settings and not with its state; `If-Match` lets an action be done only while its \
record is of that version. `Idempotency-Key` lets what is sent be done once, however often it is sent.

An id of an instance, a token or a member is a text that programs take as it is. Times are RFC 3339, in UTC.";

/// The document, as it is served.
pub fn document() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", whole()));
    &TEXT
}

fn whole() -> Json {
    let forms = Forms::new();
    let mut paths: BTreeMap<&str, Map<String, Json>> = BTreeMap::new();
    for route in Route::ALL {
        let row = route.row();
        let methods = paths.entry(row.path).or_default();
        methods.insert(row.method.to_lowercase(), operation(*route, &forms));
        let named: Vec<Json> = route.parameters().map(of_path).collect();
        if !named.is_empty() {
            methods.insert("parameters".into(), named.into());
        }
    }
    for (name, row) in CLAIM {
        let methods = paths.entry(row.path).or_default();
        methods.insert(row.method.to_lowercase(), claim(name, row, &forms));
    }
    let common: Map<String, Json> = by_status(COMMON.iter().copied())
        .into_iter()
        .map(|(status, codes)| (common_name(status), problems(&codes)))
        .collect();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": "Berth", "version": "1", "description": ABOUT, "license": { "name": "Apache-2.0" } },
        "servers": [{ "url": "/api" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "The token of a member." }
            },
            "responses": common,
            "schemas": forms.all,
        }
    });
    each_description(&mut document, &|text| *text = plain(text));
    document
}

/// The forms of all bodies.
struct Forms {
    /// By name.
    all: Map<String, Json>,
    /// What each route is sent, and answers.
    sent: BTreeMap<&'static str, Json>,
    answered: BTreeMap<&'static str, Json>,
}

impl Forms {
    /// What is sent may not have what nobody knows, and may leave out what has a default; answers have all, and may have more.
    /// Where the two differ, what is sent has a name of its own.
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|s| {
                s.definitions_path = SCHEMAS.trim_start_matches('#').trim_end_matches('/').to_owned().into();
                s.meta_schema = None;
            })
        };
        let mut given = settings().for_deserialize().into_generator();
        let mut told = settings().for_serialize().into_generator();
        let bodies = |body: fn(&Row) -> Body, generator: &mut SchemaGenerator| -> BTreeMap<&'static str, Json> {
            let form = |route: &Route| match body(&route.row()) {
                Body::Json(form) | Body::Events(form) => Some((route.name(), form(generator).to_value())),
                Body::Nothing | Body::Text(_) | Body::Bytes(_) => None,
            };
            Route::ALL.iter().filter_map(form).collect()
        };
        let mut sent = bodies(|row| row.sends, &mut given);
        let mut answered = bodies(|row| row.answers, &mut told);
        for (name, row) in CLAIM {
            if let Body::Json(form) = row.sends {
                sent.insert(name, form(&mut given).to_value());
            }
            if let Body::Json(form) = row.answers {
                answered.insert(name, form(&mut told).to_value());
            }
        }
        let problems = problem_forms(&mut told);
        let mut given = given.take_definitions(true);
        let mut all = told.take_definitions(true);
        all.values_mut().chain(answered.values_mut()).for_each(open);
        all.extend(problems);
        let own = differing(&given, &all);
        given
            .values_mut()
            .chain(sent.values_mut())
            .for_each(|form| rename(form, &own));
        for (name, form) in given {
            let name = if own.contains(&name) { input(&name) } else { name };
            all.insert(name, form);
        }
        Self { all, sent, answered }
    }
}

/// The name of the form of what is sent, where what is answered has another.
fn input(name: &str) -> String {
    format!("{name}Input")
}

/// The forms in `given` that are others in `told`, or refer to one that is.
fn differing(given: &Map<String, Json>, told: &Map<String, Json>) -> BTreeSet<String> {
    let mut own = BTreeSet::new();
    loop {
        let before = own.len();
        for (name, form) in given {
            let mut renamed = form.clone();
            rename(&mut renamed, &own);
            if told.get(name).is_some_and(|other| *other != renamed) {
                own.insert(name.clone());
            }
        }
        if own.len() == before {
            return own;
        }
    }
}

/// Lets references to these forms mean what is sent.
fn rename(form: &mut Json, own: &BTreeSet<String>) {
    if let Some(Json::String(to)) = form.get_mut("$ref") {
        let name = to.strip_prefix(SCHEMAS).filter(|name| own.contains(*name));
        if let Some(other) = name.map(|name| format!("{SCHEMAS}{}", input(name))) {
            *to = other;
        }
    }
    below(form, &mut |part| rename(part, own));
}

/// Lets objects have more members than are known: what is answered may have more with the next version.
fn open(form: &mut Json) {
    if let Json::Object(members) = form {
        for key in ["additionalProperties", "unevaluatedProperties"] {
            if members.get(key) == Some(&Json::Bool(false)) {
                members.remove(key);
            }
        }
    }
    below(form, &mut open);
}

fn below(value: &mut Json, each: &mut dyn FnMut(&mut Json)) {
    match value {
        Json::Object(members) => members.values_mut().for_each(each),
        Json::Array(items) => items.iter_mut().for_each(each),
        _ => {}
    }
}

/// `Problem`, and for each code `Problem.CODE`.
fn problem_forms(told: &mut SchemaGenerator) -> Map<String, Json> {
    let mut fields = variants::<RequestError>(told);
    fields.extend(variants::<Refusal>(told));
    let required = ["type", "title", "status", "detail", "code"];
    let any = json!({
        "description": "An error (RFC 9457). Beside these members it has the fields of its code.",
        "type": "object",
        "required": required,
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "`urn:berth:problem:` and the code." },
            "title": { "type": "string", "description": "The same for every problem of its code." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "description": "What went wrong this time, for people." },
            "code": { "type": "string", "enum": CODES.iter().map(|row| row.code).collect::<Vec<_>>() },
        }
    });
    let one = |row: &Code| {
        let mut members = json!({
            "type": { "type": "string", "const": format!("urn:berth:problem:{}", row.code) },
            "title": { "type": "string", "const": row.title },
            "status": { "type": "integer", "const": row.status },
            "detail": { "type": "string" },
            "code": { "type": "string", "const": row.code },
        });
        let mut needed: Vec<Json> = required.iter().map(|m| (*m).into()).collect();
        if let Some(mut form) = fields.remove(row.code) {
            if let (Json::Object(members), Some(Json::Object(own))) = (&mut members, form.get_mut("properties")) {
                own.remove("code");
                members.append(own);
            }
            let own = form["required"].as_array().into_iter().flatten();
            needed.extend(own.filter(|m| *m != "code").cloned());
        }
        open(&mut members);
        let form = json!({ "description": row.title, "type": "object", "required": needed, "properties": members });
        (problem_name(row.code), form)
    };
    let mut all: Map<String, Json> = CODES.iter().map(one).collect();
    all.insert("Problem".into(), any);
    all
}

fn problem_name(code: &str) -> String {
    format!("Problem.{code}")
}

/// The forms of the variants of an error, by code.
fn variants<T: JsonSchema>(generator: &mut SchemaGenerator) -> BTreeMap<String, Json> {
    let mut all = T::json_schema(generator).to_value();
    let list = all.get_mut("oneOf").and_then(Json::as_array_mut);
    let code = |form: &Json| form["properties"]["code"]["const"].as_str().map(str::to_owned);
    let list = list.into_iter().flat_map(std::mem::take);
    list.filter_map(|form| Some((code(&form)?, form))).collect()
}

fn operation(route: Route, forms: &Forms) -> Json {
    let row = route.row();
    let mut operation = json!({
        "operationId": route.name(),
        "summary": route.about().trim(),
        "responses": responses(route, forms),
    });
    let mut parameters: Vec<Json> = row.query.iter().map(|(name, value)| parameter(name, *value)).collect();
    if row.tagged {
        let about = "Versions of the record that you have. Where it is one of them, the answer is 304.";
        parameters.push(header("If-None-Match", about, TAGS));
    }
    if route == Route::Act {
        let about = "Versions of the record that the action is for: its `etag` as you know it. Where it is none of them, \
                     nothing is done. Not with an action that makes a record.";
        parameters.push(header("If-Match", about, TAGS));
    }
    if row.method == "POST" {
        let about =
            "Done once, however often it is asked for with the same key within 24 hours: the first answer comes again.";
        parameters.push(header("Idempotency-Key", about, IdempotencyKey::PATTERN));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(content) = content(row.sends, forms.sent.get(route.name())) {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

/// What a box that nobody has claimed is asked over the network, by whoever has no token yet.
fn claim(name: &str, row: &Row, forms: &Forms) -> Json {
    let about = match row.sends {
        Body::Nothing => "What a stranger is told: enough to check the certificate of the box, and to claim it.",
        _ => {
            "Claims a box that has no administrator, with the code that its screen shows or with the key that its configuration \
             names. Answers the token of the administrator `admin`. Only over the network."
        }
    };
    let mut responses = json!({
        "200": { "description": "Done.", "content": content(row.answers, forms.answered.get(name)) },
    });
    for (status, codes) in by_status(row.errors.iter().copied()) {
        responses[status.to_string()] = problems(&codes);
    }
    let mut operation = json!({ "operationId": name, "summary": about, "security": [], "responses": responses });
    if let Some(content) = content(row.sends, forms.sent.get(name)) {
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

/// A body by its media type; none where there is none.
fn content(body: Body, form: Option<&Json>) -> Option<Json> {
    if let Body::Events(_) = body {
        // That of each event of the stream.
        let text = |about: &str| json!({ "type": "string", "description": about });
        let data = json!({ "type": "string", "contentMediaType": "application/json", "contentSchema": form });
        let fields = json!({
            "id": text("Where to go on from, as `Last-Event-ID`."),
            "event": { "type": "string", "enum": event_names() },
            "data": data,
        });
        let event = json!({ "type": "object", "required": ["id", "event", "data"], "properties": fields });
        return Some(json!({ "text/event-stream": { "schema": event } }));
    }
    let (kind, schema) = match body {
        Body::Nothing | Body::Events(_) => return None,
        Body::Json(_) => ("application/json", form.cloned().unwrap_or_default()),
        Body::Text(kind) => (kind, json!({ "type": "string" })),
        // OpenAPI 3.1: bytes as they are have no schema.
        Body::Bytes(kind) => (kind, json!({})),
    };
    Some(json!({ kind: { "schema": schema } }))
}

/// The names of events.
fn event_names() -> Vec<String> {
    let changes = ["added", "changed", "removed"];
    let names = EventKind::WORDS
        .iter()
        .flat_map(|kind| changes.map(|change| format!("{kind}-{change}")));
    names.chain(["reset".to_owned()]).collect()
}

fn responses(route: Route, forms: &Forms) -> Json {
    let row = route.row();
    let mut all = Map::new();
    let content = content(row.answers, forms.answered.get(route.name()));
    let mut done = json!({ "description": "Done.", "content": content });
    if row.query == PAGE {
        let about = "Where there is a next page, its address, with `rel=\"next\"` (RFC 8288).";
        done["headers"] = json!({ "Link": { "description": about, "schema": { "type": "string" } } });
    }
    if row.method == "POST" {
        let about = "`true` where this is the answer to an earlier request with the same key.";
        done["headers"] = json!({ "Idempotency-Replayed": { "description": about, "schema": { "type": "string" } } });
    }
    if row.tagged {
        done["headers"] = etag();
        let same = json!({ "description": "It is the version that you have.", "headers": etag() });
        all.insert("304".into(), same);
    }
    all.insert("200".into(), done);
    if row.may_be_empty {
        all.insert("204".into(), json!({ "description": "It is gone." }));
    }
    let common = by_status(COMMON.iter().copied());
    let codes = CODES.iter().map(|row| row.code).filter(|code| route.may_answer(code));
    for (status, codes) in by_status(codes) {
        let answer = if common.get(&status) == Some(&codes) {
            json!({ "$ref": format!("#/components/responses/{}", common_name(status)) })
        } else {
            problems(&codes)
        };
        all.insert(status.to_string(), answer);
    }
    Json::Object(all)
}

fn common_name(status: u16) -> String {
    format!("Common{status}")
}

/// Codes by their status, in the order of the table.
fn by_status<'a>(codes: impl Iterator<Item = &'a str>) -> BTreeMap<u16, Vec<&'static str>> {
    let wanted: BTreeSet<&str> = codes.collect();
    let mut all: BTreeMap<u16, Vec<&'static str>> = BTreeMap::new();
    for row in CODES.iter().filter(|row| wanted.contains(row.code)) {
        all.entry(row.status).or_default().push(row.code);
    }
    all
}

/// An answer that is one of these errors.
fn problems(codes: &[&str]) -> Json {
    let named: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
    let forms = codes
        .iter()
        .map(|code| json!({ "$ref": format!("{SCHEMAS}{}", problem_name(code)) }));
    let mut forms: Vec<Json> = forms.collect();
    let schema = match forms.len() {
        1 => forms.remove(0),
        _ => json!({ "oneOf": forms }),
    };
    let mut answer = json!({ "description": named.join(", "), "content": { PROBLEM: { "schema": schema } } });
    let status = codes.first().and_then(|code| Code::find(code)).map(|row| row.status);
    let header = match status {
        Some(401) => Some(("WWW-Authenticate", "How to show a token (RFC 6750).", "string")),
        Some(409) if codes.contains(&"key-in-use") => Some((
            "Retry-After",
            "Seconds, where the first request with the key is under way.",
            "integer",
        )),
        Some(429 | 503) => Some(("Retry-After", "Seconds, where waiting helps.", "integer")),
        _ => None,
    };
    if let Some((name, about, kind)) = header {
        answer["headers"] = json!({ name: { "description": about, "schema": { "type": kind } } });
    }
    answer
}

/// The header that says which version of a record is answered.
fn etag() -> Json {
    let about = "The version of the record (RFC 9110, section 8.8.3): its `etag`.";
    json!({ "ETag": { "description": about, "schema": { "type": "string" } } })
}

/// A header that a request may have.
fn header(name: &str, about: &str, pattern: &str) -> Json {
    json!({
        "name": name,
        "in": "header",
        "required": false,
        "description": about,
        "schema": { "type": "string", "pattern": pattern },
    })
}

/// What a path names.
fn of_path(name: &str) -> Json {
    let (about, pattern) = match name {
        "instance" => (
            "An id; a name in the workspace `default`; or `WORKSPACE/NAME`, its slash as `%2F`.",
            None,
        ),
        "token" => ("Its public id.", Some(TokenId::PATTERN)),
        "workspace" => ("Its name.", Some(WorkspaceName::PATTERN)),
        "member" => ("Their name.", Some(MemberName::PATTERN)),
        "team" => (
            "A name in the workspace `default`, or `WORKSPACE/NAME`, its slash as `%2F`.",
            Some(TeamId::PATTERN),
        ),
        "grantee" => (
            "The name of a member, or `team:` and a team: `team:WORKSPACE/NAME`, its slash as `%2F`.",
            Some(Grantee::PATTERN),
        ),
        _ => ("The id of an instance.", Some(InstanceId::PATTERN)),
    };
    let mut schema = json!({ "type": "string", "minLength": 1 });
    if let Some(pattern) = pattern {
        schema = json!({ "type": "string", "pattern": pattern });
    }
    json!({ "name": name, "in": "path", "required": true, "description": about, "schema": schema })
}

fn parameter(name: &str, value: Value) -> Json {
    let schema = match value {
        Value::Flag => json!({ "type": "integer", "enum": [0, 1] }),
        Value::Number => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
        Value::Long => json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX }),
        Value::Time => json!({ "type": "string", "format": "date-time" }),
        Value::Date => json!({ "type": "string", "format": "date" }),
        Value::Text => json!({ "type": "string", "minLength": 1, "maxLength": MAX_TEXT }),
        Value::UpTo(most) => json!({ "type": "integer", "minimum": 0, "maximum": most }),
        Value::Limit => json!({ "type": "integer", "minimum": 1, "maximum": MAX_PAGE }),
        Value::Cursor => json!({ "type": "string", "pattern": format!("^[A-Za-z0-9_-]{{1,{MAX_CURSOR}}}$") }),
        Value::OneOf(words) => json!({ "type": "string", "enum": words }),
        Value::Words(words) => {
            json!({ "type": "array", "items": { "type": "string", "enum": words }, "minItems": 1 })
        }
    };
    let mut parameter = json!({ "name": name, "in": "query", "required": false, "schema": schema });
    if let Value::Words(_) = value {
        // With commas between.
        parameter["explode"] = json!(false);
    }
    parameter
}

/// Goes through all descriptions and summaries.
fn each_description(value: &mut Json, change: &dyn Fn(&mut String)) {
    if let Json::Object(members) = value {
        for (key, member) in members.iter_mut() {
            if let ("description" | "summary", Json::String(text)) = (key.as_str(), member) {
                change(text);
            }
        }
    }
    below(value, &mut |part| each_description(part, change));
}

/// A text of a doc comment for readers of the document: its links to code are that code.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((code, after)) = link.split_once("`]") else {
            break;
        };
        plain.push_str(before);
        plain.push_str(&format!("`{}`", code.replace("::", ".")));
        let target = after.strip_prefix('(').and_then(|t| t.split_once(')'));
        rest = target.map_or(after, |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read() -> Json {
        serde_json::from_str(document()).unwrap()
    }

    /// Every operation: path, method, and what it is.
    fn operations(document: &Json) -> BTreeMap<(String, String), Json> {
        let mut all = BTreeMap::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                if method != "parameters" {
                    all.insert((path.clone(), method.to_uppercase()), operation.clone());
                }
            }
        }
        all
    }

    #[test]
    fn it_has_every_route_with_its_parameters_and_no_other() {
        let document = read();
        let mut all = operations(&document);
        for route in Route::ALL {
            let row = route.row();
            let key = (row.path.to_owned(), row.method.to_owned());
            let operation = all.remove(&key).unwrap_or_else(|| panic!("{key:?} is not in it"));
            let named = |of: &Json, place: &str| -> Vec<String> {
                let all = of.as_array().into_iter().flatten().filter(|p| p["in"] == place);
                all.map(|p| p["name"].as_str().unwrap().to_owned()).collect()
            };
            let given = &operation["parameters"];
            assert_eq!(
                named(given, "query"),
                row.query.iter().map(|(name, _)| *name).collect::<Vec<_>>()
            );
            let read = named(given, "header").contains(&"If-None-Match".to_owned());
            assert_eq!(
                (read, operation["responses"]["304"].is_object()),
                (row.tagged, row.tagged)
            );
            let keyed = named(given, "header").contains(&"Idempotency-Key".to_owned());
            assert_eq!(keyed, row.method == "POST", "{key:?}");
            let of_path = named(&document["paths"][row.path]["parameters"], "path");
            assert_eq!(of_path, route.parameters().collect::<Vec<_>>(), "{key:?}");
            assert_eq!(operation.get("requestBody").is_some(), row.method == "POST", "{key:?}");
            assert!(operation["responses"]["401"].is_object() && operation["responses"]["200"].is_object());
        }
        for method in ["GET", "POST"] {
            let claim = all.remove(&("/claim".to_owned(), method.to_owned())).unwrap();
            assert_eq!(claim["security"], json!([]), "whoever claims has no token");
            assert_eq!(claim.get("requestBody").is_some(), method == "POST");
        }
        assert!(all.is_empty(), "no route is {:?}", all.keys());
    }

    /// Errors that no route of the table answers with: of claiming, of screens' doors, and of instances' endpoints; and what
    /// is said of a route that there is not.
    const OTHERS: &[&str] = &[
        "bad-method",
        "bad-ticket",
        "busy",
        "garbled",
        "gone",
        "lost",
        "no-audit",
        "no-claim",
        "no-key",
        "no-route",
        "no-session",
        "not-serving",
        "not-websocket",
        "session-over",
        "unknown-host",
        "unknown-path",
        "wrong-code",
        "wrong-key",
    ];

    #[test]
    fn every_code_is_in_it_and_with_the_routes_that_may_answer_it() {
        let document = read();
        let forms = &document["components"]["schemas"];
        for row in CODES {
            let form = &forms[problem_name(row.code)];
            assert_eq!(form["properties"]["status"]["const"], row.status, "{}", row.code);
            for field in row.fields() {
                assert!(form["properties"].get(*field).is_some(), "{}: {field}", row.code);
                assert!(
                    form["required"].as_array().unwrap().contains(&(*field).into()),
                    "{}: {field}",
                    row.code
                );
            }
            let by_a_route = Route::ALL.iter().any(|route| route.may_answer(row.code));
            assert_eq!(by_a_route, !OTHERS.contains(&row.code), "{}", row.code);
        }
        let named = forms["Problem"]["properties"]["code"]["enum"].as_array().unwrap();
        assert_eq!(named.len(), CODES.len());
        for code in COMMON
            .iter()
            .chain(Route::ALL.iter().flat_map(|r| r.row().errors))
            .chain(OTHERS)
        {
            assert!(Code::find(code).is_some(), "{code} is no code");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn look(value: &mut Json, document: &Json, found: &mut usize) {
            if let Some(Json::String(to)) = value.get("$ref") {
                let there = document.pointer(to.strip_prefix('#').unwrap());
                assert!(there.is_some(), "{to}");
                *found += 1;
            }
            below(value, &mut |part| look(part, document, found));
        }
        let (mut document, mut found) = (read(), 0);
        let whole = document.clone();
        look(&mut document, &whole, &mut found);
        assert!(found > 200, "{found}");
    }

    #[test]
    fn what_is_sent_is_closed_and_what_is_answered_is_open() {
        let document = read();
        let forms = &document["components"]["schemas"];
        for action in forms["Action"]["oneOf"].as_array().unwrap() {
            let closed = ["additionalProperties", "unevaluatedProperties"].map(|key| action[key] == false);
            assert!(closed.contains(&true), "{action}");
        }
        let of = |form: &str| forms[form]["additionalProperties"].clone();
        assert_eq!(
            (of("WorkspaceLimits"), of("WorkspaceLimitsInput")),
            (Json::Null, json!(false))
        );
        let needed = |form: &Json, field: &str| form["required"].as_array().unwrap().contains(&json!(field));
        assert!(
            needed(&forms["TokenView"], "expires_at"),
            "an answer always has it, though it may be null"
        );
        let quota = forms["Action"]["oneOf"].as_array().unwrap().iter();
        let quota = quota
            .clone()
            .find(|a| a["properties"]["action"]["const"] == "set_quota");
        assert!(needed(quota.unwrap(), "quota"));
    }

    /// `BERTH_BLESS=1 cargo test openapi` writes the copy.
    #[test]
    fn the_copy_is_current() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        if std::env::var_os("BERTH_BLESS").is_some() {
            std::fs::write(&file, document()).unwrap();
        }
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            kept == document(),
            "docs/openapi.json is not of this API: BERTH_BLESS=1 cargo test openapi writes it"
        );
    }

    #[test]
    fn links_of_doc_comments_are_plain_text() {
        assert_eq!(
            plain("An [`Action`](crate::model::Action) in [`A::b`], `c` [d] [`e"),
            "An `Action` in `A.b`, `c` [d] [`e"
        );
    }
}
