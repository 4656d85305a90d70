//! The box's own doors: bodies stream both ways behind them, within each door's bounds.

use super::rig::{BODY_LIMIT, Body, Rig, body_of, json_of, next_chunk};
use berth::{
    authz::{TokenEntry, TokenHash, new_member_token},
    edge::{BoxService, OwnBody, OwnRequest},
    model::{MemberName, Principal, TokenId, TokenScope},
};
use bytes::Bytes;
use futures_util::{future::BoxFuture, stream};
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use std::{convert::Infallible, sync::Arc};
use tokio::sync::mpsc;

/// Tells what comes, piece by piece, as it comes.
pub struct Echo;

impl BoxService for Echo {
    fn locked(&self) -> bool {
        false
    }

    fn answer<'a>(&'a self, asked: OwnRequest) -> BoxFuture<'a, Response<OwnBody>> {
        Box::pin(async move {
            let (parts, body) = asked.request.into_parts();
            let mut answer = match parts.uri.path() {
                "/api/v1/images" => {
                    let (tx, rx) = mpsc::channel(1);
                    tokio::spawn(async move {
                        let mut body = body;
                        while let Some(piece) = body.frame().await {
                            let piece = piece.map(|f| f.into_data().unwrap_or_default());
                            let told = piece.map_or_else(|e| e.to_string(), |p| format!("{};", p.len()));
                            if tx.send(told).await.is_err() {
                                return;
                            }
                        }
                    });
                    return Response::new(streamed(rx));
                }
                // Whatever has come is well with it.
                "/api/v1/actions" => {
                    let _ = body.collect().await;
                    Response::new(Full::new(Bytes::from("done")).boxed())
                }
                _ => Response::new(Full::new(Bytes::from("a page")).boxed()),
            };
            if parts.uri.path() == "/api/claim" {
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
            }
            answer
        })
    }
}

/// A body of what comes through a channel.
fn streamed<T: Into<Bytes> + Send + 'static>(rx: mpsc::Receiver<T>) -> Body {
    let frames = stream::unfold(rx, |mut rx| async move {
        let piece = rx.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece.into())), rx))
    });
    StreamBody::new(frames).boxed()
}

/// A member's token.
pub fn member(rig: &Rig) -> (String, TokenId) {
    let (secret, id) = (new_member_token([9; 32]), TokenId::from_random([9; 12]));
    rig.tokens.insert(TokenEntry {
        id: id.clone(),
        hash: TokenHash::of(secret.expose()),
        principal: Principal::member(MemberName::parse("ada").unwrap(), id.clone(), &TokenScope::All),
        expires_at: None,
        last_used: None,
    });
    (secret.expose().to_owned(), id)
}

pub fn request(method: Method, path: &str, token: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {token}"))
        .body(body)
        .unwrap()
}

/// What was told until so many bytes have come.
async fn told(response: &mut Response<hyper::body::Incoming>, bytes: usize) -> usize {
    let (mut sum, mut text) = (0, String::new());
    while sum < bytes {
        text.push_str(&next_chunk(response).await.expect("more"));
        let whole = text.rfind(';').map_or(0, |at| at + 1);
        let counts = text.drain(..whole).collect::<String>();
        sum += counts
            .split_terminator(';')
            .map(|n| n.parse::<usize>().unwrap())
            .sum::<usize>();
    }
    sum
}

#[tokio::test]
async fn an_upload_is_answered_while_it_comes_and_ends_with_its_token() {
    let rig = Rig::with_front(Arc::new(Echo)).await;
    let (token, id) = member(&rig);
    for http2 in [false, true] {
        let mut client = rig.client("localhost", http2).await;
        let (tx, rx) = mpsc::channel(1);
        let body = streamed(rx);
        // Longer than what is held, and than what other doors take.
        let first = 100 * 1024;
        tx.send(vec![b'x'; first]).await.unwrap();
        let mut response = client
            .send(request(Method::POST, "/api/v1/images", &token, body))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(told(&mut response, first).await, first);
        for _ in 0..3 {
            tx.send(vec![b'x'; BODY_LIMIT]).await.unwrap();
            assert_eq!(told(&mut response, BODY_LIMIT).await, BODY_LIMIT);
        }
        if http2 {
            rig.tokens.remove(&id);
            // The stream is cut, not ended.
            while let Some(frame) = response.frame().await {
                if frame.is_err() {
                    return;
                }
            }
            panic!("a revoked token's answer ended well");
        }
        drop(tx);
        assert_eq!(body_of(response).await, "");
    }
}

#[tokio::test]
async fn a_body_past_its_doors_bound_is_refused_whatever_the_door_says() {
    let rig = Rig::with_front(Arc::new(Echo)).await;
    let (token, _) = member(&rig);
    for http2 in [false, true] {
        let mut client = rig.client("localhost", http2).await;
        let declared = Full::new(Bytes::from(vec![0; BODY_LIMIT + 1])).boxed();
        let undeclared = (0..17).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; BODY_LIMIT / 16]))));
        let undeclared = StreamBody::new(stream::iter(undeclared)).boxed();
        for (path, body, status) in [
            ("/api/v1/actions", declared, 413),
            ("/api/v1/actions", undeclared, 413),
            (
                "/api/v1/actions",
                Full::new(Bytes::from(vec![0; BODY_LIMIT])).boxed(),
                200,
            ),
            ("/api/claim", Full::new(Bytes::from(vec![0; 4097])).boxed(), 413),
        ] {
            let response = client.send(request(Method::POST, path, &token, body)).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            if status == 413 {
                assert_eq!(json_of(response).await["code"], "body-too-large");
            } else {
                assert_eq!(body_of(response).await, "done");
            }
        }
    }
}

#[tokio::test]
async fn whoever_shows_nothing_gets_pages_and_a_claim_alone() {
    let rig = Rig::with_front(Arc::new(Echo)).await;
    for http2 in [false, true] {
        let mut client = rig.client("localhost", http2).await;
        for (method, path, status) in [
            (Method::GET, "/", 200),
            (Method::HEAD, "/", 200),
            // No page of this host asks.
            (Method::POST, "/", 403),
            (Method::POST, "/sign-in", 403),
            (Method::PUT, "/", 405),
            (Method::POST, "/csp-reports", 200),
            (Method::GET, "/csp-reports", 405),
            (Method::POST, "/api/claim", 401),
            (Method::GET, "/api/v1/status", 401),
            (Method::OPTIONS, "/api/v1/status", 405),
        ] {
            let mut request = request(method.clone(), path, "", Full::default().boxed());
            request.headers_mut().remove("authorization");
            let response = client.send(request).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}");
            let headers = response.headers();
            assert_eq!(headers["x-frame-options"], "DENY", "{method} {path}");
            if path == "/" && status == 200 {
                assert_eq!(headers["content-length"], "6");
                let body = body_of(response).await;
                assert_eq!(body, if method == Method::GET { "a page" } else { "" });
            } else {
                body_of(response).await;
            }
        }
    }
}
