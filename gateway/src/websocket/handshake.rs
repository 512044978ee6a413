//! The opening handshake of the WebSocket door: RFC 6455, section 4.2, and where a token may be
//! (proto/PROTOCOL.md). Reads a request and says what it asks for; decides nothing about the token.

use carillon_proto::ids::ClientId;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tungstenite::handshake::derive_accept_key;

/// The subprotocol of the native wire.
pub const SUBPROTOCOL: &str = "carillon.v1";
const TOKEN_OFFER: &str = "carillon.token.";

/// A request that asks for a WebSocket.
#[derive(Debug)]
pub struct Asked {
    /// `Sec-WebSocket-Accept` of the answer.
    pub accept: String,
    /// Whether the answer names [`SUBPROTOCOL`].
    pub offers_subprotocol: bool,
    /// The token, from the first place that holds one.
    pub token: Option<String>,
    /// The client id, if the client names one.
    pub client: Option<ClientId>,
}

/// Why a request is none; the text is for the client's developer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// 400.
    BadRequest(&'static str),
    /// 426: it must ask for an upgrade to version 13.
    UpgradeRequired,
}

/// Reads what every door's WebSocket needs; `Sec-WebSocket-Accept` of the answer.
///
/// # Errors
/// [`Refused`], if this is no handshake.
pub fn accept<B>(request: &Request<B>) -> Result<String, Refused> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err(Refused::BadRequest("a WebSocket starts with GET"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") || !has_token(headers, header::UPGRADE, "websocket") {
        return Err(Refused::UpgradeRequired);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refused::UpgradeRequired);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refused::BadRequest("Sec-WebSocket-Key is missing"))?;
    Ok(derive_accept_key(key.as_bytes()))
}

/// The answer that completes the handshake.
pub fn switching<B: Default>(accept: &str) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(accept).expect("base64 is a header value"));
    response
}

/// Reads the handshake.
///
/// # Errors
/// As [`accept`], or for a client id that is none.
pub fn read<B>(request: &Request<B>) -> Result<Asked, Refused> {
    let accept = accept(request)?;
    let headers = request.headers();
    let offers: Vec<&str> = list(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    let query = Query::of(request.uri().query());
    let token = bearer(headers)
        .or_else(|| {
            offers.iter().find_map(|offer| offer.strip_prefix(TOKEN_OFFER).filter(|it| !it.is_empty())).map(str::to_owned)
        })
        .or(query.token);
    let client = match query.client {
        Some(client) => Some(ClientId::parse(&client).map_err(|_| Refused::BadRequest("client is 1 to 64 of A-Z a-z 0-9 _ -"))?),
        None => None,
    };
    Ok(Asked { accept, offers_subprotocol: offers.contains(&SUBPROTOCOL), token, client })
}

/// The token of `Authorization: Bearer T` (RFC 6750, section 2.1; the scheme's case does not matter).
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim().to_owned())
}

#[derive(Default)]
struct Query {
    token: Option<String>,
    client: Option<String>,
}

impl Query {
    fn of(query: Option<&str>) -> Self {
        let mut found = Self::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                // A place that holds none is passed over.
                "token" if !value.is_empty() => found.token = found.token.or(Some(value.into_owned())),
                "client" => found.client = found.client.or(Some(value.into_owned())),
                _ => {}
            }
        }
        found
    }
}

/// The elements of a header that is a list (RFC 9110, section 5.6.1), over all its lines.
fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    list(headers, name).any(|element| element.eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get(uri)
            .header("connection", "keep-alive, Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn rfc_example_is_accepted() {
        let asked = read(&request("/ws", &[])).unwrap();
        assert_eq!(asked.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!asked.offers_subprotocol);
        assert_eq!(asked.token, None);
    }

    #[test]
    fn first_place_with_a_token_decides() {
        let bearer = ("authorization", "bearer A");
        let offer = ("sec-websocket-protocol", "carillon.v1, carillon.token.B");
        let token = |uri, headers: &[_]| read(&request(uri, headers)).unwrap().token;
        assert_eq!(token("/ws?token=C", &[offer, bearer]).as_deref(), Some("A"));
        assert_eq!(token("/ws?token=C", &[offer]).as_deref(), Some("B"));
        assert_eq!(token("/ws?token=C&token=D", &[("authorization", "Basic x")]).as_deref(), Some("C"));
        assert!(read(&request("/ws", &[offer])).unwrap().offers_subprotocol);
    }

    #[test]
    fn client_ids_are_checked() {
        let client = |uri| read(&request(uri, &[])).map(|asked| asked.client);
        assert_eq!(client("/ws?client=phone-1").unwrap().unwrap().as_str(), "phone-1");
        assert!(matches!(client("/ws?client=a%20b"), Err(Refused::BadRequest(_))));
    }

    #[test]
    fn other_requests_are_refused() {
        let plain = Request::get("/ws").body(()).unwrap();
        assert_eq!(read(&plain).unwrap_err(), Refused::UpgradeRequired);
        let mut post = request("/ws", &[]);
        *post.method_mut() = Method::POST;
        assert!(matches!(read(&post), Err(Refused::BadRequest(_))));
        let mut no_key = request("/ws", &[]);
        no_key.headers_mut().remove("sec-websocket-key");
        assert!(matches!(read(&no_key), Err(Refused::BadRequest(_))));
    }
}
