//! From a request to a native connection. A client without a good token is let in as well, and told at once by a close
//! frame: a browser shows a page nothing of an HTTP error.

use std::{rc::Rc, sync::Arc, time::Instant};

use carillon_proto::codes::ErrorCode;
use http::{
    Request, StatusCode,
    header::{self, HeaderValue},
};
use hyper::upgrade::Parts;
use hyper_util::rt::TokioIo;

use super::handshake::{self, Asked, Refused};
use crate::{
    http::{
        Front, Reply, Stranger, cors,
        reply::{Problem, empty},
    },
    shard::Opening,
    upload::Upload,
    wire::Wire,
};

/// Answers a request for `/ws`.
pub(crate) async fn open(front: &Rc<Front>, mut request: Request<Upload>) -> Reply {
    let came = Instant::now();
    let asked = match handshake::read(&request) {
        Ok(asked) => asked,
        Err(Refused::BadRequest(why)) => return Problem::new(ErrorCode::BadRequest, why).into_reply(),
        Err(Refused::UpgradeRequired) => return upgrade_required(),
    };
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !origin.to_str().is_ok_and(|origin| front.config.origins.allows(origin))
    {
        return cors::not_listed().into_reply();
    }
    let Asked { accept, offers_subprotocol, token, client } = asked;
    let verified = front.verify(token.as_deref(), request.extensions()).await;
    let stranger = request.extensions().get::<Arc<Stranger>>().cloned();
    let upgrade = hyper::upgrade::on(&mut request);
    let shard = front.shard.clone();
    tokio::task::spawn_local(async move {
        // A client that is gone before its answer needs none.
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<Wire>>() else {
            unreachable!("this is the type that was served")
        };
        let mut shard = shard.borrow_mut();
        let wire = io.into_inner();
        match verified {
            Ok(claims) => shard.on_connect(wire, &read_buf, Opening { claims, client, asked: came, pace: None }),
            // One that is told off counts until it has gone.
            Err(why) => shard.refuse(wire, why, stranger),
        }
    });
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept).expect("base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offers_subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(handshake::SUBPROTOCOL));
    }
    response
}

fn upgrade_required() -> Reply {
    let mut response = Problem::bad(StatusCode::UPGRADE_REQUIRED, "connect with WebSocket version 13").into_reply();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}
