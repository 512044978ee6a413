//! Requests that reach peers, here or on another shard: which may be asked for, how their bodies are read, and what a page of another
//! origin is told.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use carillon_proto::engineio::Step;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::{Application, Cors, Server, Socket};
use crate::{
    engineio::{
        bridge,
        elsewhere::Elsewhere,
        request::{self, Asked, Refused, Sid, Transport},
        websocket,
    },
    upload::Upload,
    websocket::handshake,
};

/// A browser asks again whether it may ask after so many seconds; two hours is the longest that Chromium keeps.
const PREFLIGHT_S: &str = "7200";

impl<A: Application> Server<A> {
    /// Answers an HTTP request, whatever it is. `on_known` is told, as soon as it is so, that the request is one of a client
    /// that has shown who it is.
    pub async fn answer(self: &Rc<Self>, request: Request<Upload>, on_known: &dyn Fn()) -> Response<Bytes> {
        let Ok(cors) = self.cors(request.headers()) else { return Refused::Forbidden.response() };
        let mut response = if request.method() == Method::OPTIONS {
            preflight()
        } else {
            self.serve(request, on_known).await.unwrap_or_else(Refused::response)
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response.headers_mut().extend(cors);
        response
    }

    async fn serve(self: &Rc<Self>, request: Request<Upload>, on_known: &dyn Fn()) -> Result<Response<Bytes>, Refused> {
        let Asked { transport, sid } = request::read(&request)?;
        if let (Some(sid), Some(elsewhere)) = (sid.filter(|sid| sid.owner() != self.owner), &self.elsewhere) {
            return self.serve_elsewhere(elsewhere, transport, sid, request, on_known).await;
        }
        if sid.is_some_and(|sid| self.holds_known(sid)) {
            on_known();
        }
        let is_known = sid.is_none_or(|sid| self.sockets.borrow().contains_key(&sid));
        match (transport, sid) {
            (_, Some(_)) if !is_known => Err(Refused::UnknownSid),
            (Transport::WebSocket, sid) => self.upgrade(request, sid),
            (Transport::Polling, None) if request.method() != Method::GET => Err(Refused::BadHandshakeMethod),
            (Transport::Polling, None) if !self.app.admits() => Err(Refused::NotNow),
            (Transport::Polling, None) => {
                if let Some(elsewhere) = &self.elsewhere {
                    elsewhere.hears().await?;
                }
                let sid = self.open(false).sid();
                self.poll(sid).await.map(text)
            }
            (Transport::Polling, Some(sid)) => match *request.method() {
                Method::GET if !self.app.may_poll(sid) => Err(Refused::NotNow),
                Method::GET => {
                    let polled = self.poll(sid).await;
                    // It may have shown meanwhile who it is.
                    if self.holds_known(sid) {
                        on_known();
                    }
                    polled.map(text)
                }
                Method::POST => {
                    let socket = self.begin_post(sid)?;
                    let posting = Posting { server: self, socket: Some(socket) };
                    let body = self.body(request.into_body()).await;
                    posting.end(body)?;
                    Ok(text(Bytes::from_static(b"ok")))
                }
                _ => Err(Refused::BadRequest),
            },
        }
    }

    /// A request about a peer that another shard holds.
    async fn serve_elsewhere(
        self: &Rc<Self>,
        elsewhere: &Rc<Elsewhere>,
        transport: Transport,
        sid: Sid,
        mut request: Request<Upload>,
        on_known: &dyn Fn(),
    ) -> Result<Response<Bytes>, Refused> {
        match (transport, request.method()) {
            (Transport::Polling, &Method::GET) if !self.app.may_poll(sid) => Err(Refused::NotNow),
            (Transport::Polling, &Method::GET) => {
                let number = elsewhere.number();
                let known = elsewhere.known(number, sid);
                known.during(on_known, elsewhere.ask_as(number, sid, Step::Poll, Bytes::new())).await.map(text)
            }
            (Transport::Polling, &Method::POST) => {
                let number = elsewhere.number();
                let known = elsewhere.known(number, sid);
                let mut posting = PostingElsewhere::begin(elsewhere, sid, number);
                let body = known.during(on_known, self.body(request.into_body())).await?;
                posting.is_read = true;
                elsewhere.ask_as(number, sid, Step::Post, body).await.map(|_| text(Bytes::from_static(b"ok")))
            }
            (Transport::Polling, _) => Err(Refused::BadRequest),
            (Transport::WebSocket, _) => {
                let accept = handshake::accept(&request).map_err(|_| Refused::BadRequest)?;
                let (elsewhere, upgrade) = (elsewhere.clone(), hyper::upgrade::on(&mut request));
                let config = self.config.clone();
                tokio::task::spawn_local(async move {
                    if let Ok(upgraded) = upgrade.await {
                        bridge::serve(&config, &elsewhere, sid, upgraded).await;
                    }
                });
                Ok(handshake::switching(&accept))
            }
        }
    }

    /// Reads a body, in the time that there is for one.
    async fn body(&self, body: Upload) -> Result<Bytes, Refused> {
        let patience = Duration::from_millis(self.config.body_ms);
        let read = Limited::new(body, self.config.max_payload).collect();
        match tokio::time::timeout(patience, read).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Refused::TooLarge),
            Ok(Err(_)) | Err(_) => Err(Refused::BadRequest),
        }
    }

    fn upgrade(self: &Rc<Self>, mut request: Request<Upload>, sid: Option<Sid>) -> Result<Response<Bytes>, Refused> {
        let accept = handshake::accept(&request).map_err(|_| Refused::BadRequest)?;
        if sid.is_none() && !self.app.admits() {
            return Err(Refused::NotNow);
        }
        let (server, upgrade) = (self.clone(), hyper::upgrade::on(&mut request));
        tokio::task::spawn_local(self.tasks.track_future(async move {
            // A client that is gone before its answer needs none.
            if let Ok(upgraded) = upgrade.await {
                websocket::serve(server, sid, upgraded).await;
            }
        }));
        Ok(handshake::switching(&accept))
    }

    /// The headers for the page that asks; an error if it may not.
    fn cors(&self, headers: &HeaderMap) -> Result<HeaderMap, ()> {
        let mut cors = HeaderMap::new();
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(cors) };
        match &self.config.cors {
            Cors::Any => {
                cors.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Cors::Listed(origins) => {
                if !origin.to_str().is_ok_and(|origin| origins.allows(origin)) {
                    // A browser names the origin of a POST even to the page's own server; no page can set the other header.
                    let is_same = headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin");
                    return if is_same { Ok(cors) } else { Err(()) };
                }
                cors.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                cors.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                cors.insert(header::VARY, HeaderValue::from_static("Origin"));
            }
        }
        Ok(cors)
    }
}

/// A POST that is being read: dropped before its end, it was given up.
struct Posting<'s, A: Application> {
    server: &'s Server<A>,
    socket: Option<Socket>,
}

impl<A: Application> Posting<'_, A> {
    fn end(mut self, body: Result<Bytes, Refused>) -> Result<(), Refused> {
        let socket = self.socket.take().expect("it ends once");
        self.server.on_post(&socket, body)
    }
}

impl<A: Application> Drop for Posting<'_, A> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = self.server.on_post(&socket, Err(Refused::BadRequest));
        }
    }
}

/// A POST that is being read for another shard: dropped before its end, it was given up.
struct PostingElsewhere<'e> {
    elsewhere: &'e Rc<Elsewhere>,
    sid: Sid,
    number: u64,
    is_read: bool,
}

impl<'e> PostingElsewhere<'e> {
    fn begin(elsewhere: &'e Rc<Elsewhere>, sid: Sid, number: u64) -> Self {
        elsewhere.tell_step(number, sid, Step::PostBegins, Bytes::new());
        Self { elsewhere, sid, number, is_read: false }
    }
}

impl Drop for PostingElsewhere<'_> {
    fn drop(&mut self) {
        if !self.is_read {
            self.elsewhere.tell_step(self.number, self.sid, Step::PostGone, Bytes::new());
        }
    }
}

fn text(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    response
}

fn preflight() -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type, authorization"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_S));
    response
}
