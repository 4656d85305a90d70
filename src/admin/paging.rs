//! Pages of lists. A list is in the order of its keys; the cursor of a page is the key of its last item, so that what comes or
//! goes meanwhile moves no page. What the caller may not know of is left out before.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use http::{HeaderValue, header};
use serde::Serialize;

use super::answers::{AdminResponse, json, pairs};
use crate::api::{ImageView, TypeView};
use crate::{
    api::{RequestError, Route},
    model::{GrantView, Grantee, InstanceView, TeamView, WorkspaceView},
    record::{MemberRecord, TokenRecord},
};

/// What a list can be ordered by.
pub(super) trait Keyed {
    /// No other item of the list has it.
    fn key(&self) -> String;
}

macro_rules! keyed {
    ($($type:ty, |$item:ident| $key:expr;)*) => {$(
        impl Keyed for $type {
            fn key(&self) -> String {
                let $item = self;
                $key.to_string()
            }
        }
    )*};
}

// A character that no part of a key has stands between its parts, before all others.
keyed! {
    TypeView, |t| t.name;
    ImageView, |i| i.name;
    TokenRecord, |t| t.id;
    WorkspaceView, |w| w.name;
    MemberRecord, |m| m.name;
    TeamView, |t| format_args!("{}\0{}", t.workspace, t.name);
    InstanceView, |i| i.id;
    GrantView, |g| match &g.to {
        Grantee::Member(name) => format!("0{name}\0{}", g.instance),
        Grantee::Team(team) => format!("1{}\0{}\0{}", team.workspace, team.name, g.instance),
    };
}

impl<T: Keyed> Keyed for &T {
    fn key(&self) -> String {
        (**self).key()
    }
}

/// A page of a list, as `limit` and `after` in the query ask for it; all of it without them. `shown` makes of an item
/// on the page what is answered; none where it is gone meanwhile. The next page is told in `Link` (RFC 8288).
pub(super) fn page<T: Keyed, S: Serialize>(
    items: impl IntoIterator<Item = T>,
    (route, at): (Route, Option<&str>),
    query: &str,
    shown: impl Fn(T) -> Option<S>,
) -> Result<AdminResponse, RequestError> {
    let asked = pairs(query);
    let mut items: Vec<(String, T)> = items.into_iter().map(|item| (item.key(), item)).collect();
    items.sort_by(|a, b| a.0.cmp(&b.0));
    if let Some(after) = asked.get("after") {
        let key = key_of(after).ok_or_else(|| RequestError::BadParameter {
            path: route.path().to_owned(),
            parameter: "after".to_owned(),
            value: (*after).to_owned(),
            known: Vec::new(),
        })?;
        items.retain(|(k, _)| *k > key);
    }
    let limit = asked.get("limit").and_then(|l| l.parse::<usize>().ok());
    let more = limit.filter(|limit| items.len() > *limit);
    let last = more.and_then(|limit| {
        items.truncate(limit);
        Some((limit, BASE64.encode(&items.last()?.0)))
    });
    let items: Vec<S> = items.into_iter().filter_map(|(_, item)| shown(item)).collect();
    let mut answer = json(http::StatusCode::OK, &items);
    if let Some((limit, cursor)) = last {
        let root = if at.is_some() { crate::door::API } else { "" };
        let link = format!("<{root}{}?limit={limit}&after={cursor}>; rel=\"next\"", route.path());
        if let Ok(link) = HeaderValue::from_str(&link) {
            answer.headers_mut().insert(header::LINK, link);
        }
    }
    Ok(answer)
}

/// The key in a cursor.
fn key_of(cursor: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[derive(Debug, Clone)]
    struct Item(&'static str);

    impl Keyed for Item {
        fn key(&self) -> String {
            self.0.to_owned()
        }
    }

    /// What a page holds, and the query of the next.
    async fn asked(items: &[Item], query: &str) -> (Vec<String>, Option<String>) {
        let answer = page(items, (Route::Tokens, Some("box")), query, |item| Some(item.0)).unwrap();
        let link = answer
            .headers()
            .get(header::LINK)
            .map(|l| l.to_str().unwrap().to_owned());
        let next = link.map(|link| {
            let link = link.strip_suffix(">; rel=\"next\"").unwrap();
            link.strip_prefix("</api/v1/tokens?").unwrap().to_owned()
        });
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (serde_json::from_slice(&body).unwrap(), next)
    }

    #[tokio::test]
    async fn pages_have_each_item_once_whatever_comes_and_goes() {
        let all = ["d", "a", "c", "b", "e"].map(Item);
        assert_eq!(
            asked(&all, "").await,
            (["a", "b", "c", "d", "e"].map(str::to_owned).into(), None)
        );
        let (first, next) = asked(&all, "limit=2").await;
        assert_eq!(first, ["a", "b"]);
        // The last of the page goes, one comes before it and one behind.
        let other = ["aa", "a", "c", "bb", "d", "e"].map(Item);
        let (second, next) = asked(&other, &next.unwrap()).await;
        assert_eq!(second, ["bb", "c"]);
        let (third, next) = asked(&other, &next.unwrap()).await;
        assert_eq!(
            (third, next),
            (vec!["d".to_owned(), "e".to_owned()], None),
            "no page is empty"
        );
        assert_eq!(asked(&all, "limit=5").await.1, None);
        assert_eq!(asked(&[], "limit=1").await, (Vec::new(), None));
    }

    #[test]
    fn a_cursor_of_somebodys_own_is_refused() {
        for cursor in ["!", "a", "_w"] {
            let wrong = page([Item("a")], (Route::Tokens, None), &format!("after={cursor}"), |i| {
                Some(i.0)
            });
            let wrong = wrong.expect_err(cursor);
            assert!(matches!(wrong, RequestError::BadParameter { parameter, .. } if parameter == "after"));
        }
    }
}
