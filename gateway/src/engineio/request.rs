//! What a request asks of the transport, and what one that asks for nothing sensible is told: the codes and texts are those
//! of the reference server, since clients show them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use carillon_proto::ids::GatewayId;
use http::{HeaderValue, Request, Response, StatusCode, header};

/// A connection's id: which gateway shard holds it, and 122 bits that nobody guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    owner: GatewayId,
    secret: [u8; 16],
}

impl Sid {
    /// A new one.
    pub fn new(owner: GatewayId) -> Self {
        Self { owner, secret: uuid::Uuid::new_v4().into_bytes() }
    }

    /// Reads one out of a query.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        let (owner, secret) = bytes.split_at(16);
        Some(Self { owner: GatewayId(owner.try_into().ok()?), secret: secret.try_into().ok()? })
    }

    /// Who holds the connection.
    pub fn owner(&self) -> GatewayId {
        self.owner
    }
}

impl std::fmt::Display for Sid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.owner.0);
        bytes[16..].copy_from_slice(&self.secret);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// GET to receive, POST to send.
    Polling,
    /// One socket.
    WebSocket,
}

/// What the query says.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// By which transport.
    pub transport: Transport,
    /// For which connection; `None` asks for a new one.
    pub sid: Option<Sid>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The texts below say it.
pub enum Refused {
    UnknownTransport,
    UnknownSid,
    BadHandshakeMethod,
    BadRequest,
    Forbidden,
    UnsupportedVersion,
    TooLarge,
    NotNow,
    /// The connection has ended, and its WebSocket is to be closed with this code.
    Closed(u16),
}

/// Codes of close frames (RFC 6455, section 7.4.2): between gateways they are refusals of their own, far above the others' numbers.
const CLOSE_CODES: std::ops::RangeInclusive<u32> = 1000..=4999;

impl Refused {
    fn parts(self) -> (StatusCode, u8, &'static str) {
        match self {
            Self::UnknownTransport => (StatusCode::BAD_REQUEST, 0, "Transport unknown"),
            Self::UnknownSid | Self::Closed(_) => (StatusCode::BAD_REQUEST, 1, "Session ID unknown"),
            Self::BadHandshakeMethod => (StatusCode::BAD_REQUEST, 2, "Bad handshake method"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, 3, "Bad request"),
            Self::Forbidden => (StatusCode::FORBIDDEN, 4, "Forbidden"),
            Self::UnsupportedVersion => (StatusCode::BAD_REQUEST, 5, "Unsupported protocol version"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Bad request"),
            Self::NotNow => (StatusCode::SERVICE_UNAVAILABLE, 3, "Bad request"),
        }
    }

    /// Those that have a number by their place here.
    const ALL: [Self; 8] = [
        Self::UnknownTransport,
        Self::UnknownSid,
        Self::BadHandshakeMethod,
        Self::BadRequest,
        Self::Forbidden,
        Self::UnsupportedVersion,
        Self::TooLarge,
        Self::NotNow,
    ];

    /// Its number between gateways, from 1 on.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Closed(code) => code.into(),
            _ => 1 + Self::ALL.iter().position(|known| *known == self).expect("all others are listed") as u32,
        }
    }

    /// From its number; whatever a newer gateway means by others, the connection can't be had.
    pub(super) fn of_number(number: u32) -> Self {
        if CLOSE_CODES.contains(&number) {
            return Self::Closed(number as u16);
        }
        let index = number.checked_sub(1).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| Self::ALL.get(index)).copied().unwrap_or(Self::UnknownSid)
    }

    /// The body, with the code and the text.
    pub fn body(self) -> Bytes {
        let (_, code, message) = self.parts();
        format!(r#"{{"code":{code},"message":"{message}"}}"#).into()
    }

    /// The answer to the request.
    pub fn response(self) -> Response<Bytes> {
        let (status, ..) = self.parts();
        let mut response = Response::new(self.body());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Self::NotNow {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Reads the query.
///
/// # Errors
/// Which part of it does not hold, the transport first, as the reference server judges.
pub fn read<B>(request: &Request<B>) -> Result<Asked, Refused> {
    let (mut version, mut transport, mut sid) = (None, None, None);
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*name {
            "EIO" => version = version.or(Some(value)),
            "transport" => transport = transport.or(Some(value)),
            "sid" => sid = sid.or(Some(value)),
            _ => {}
        }
    }
    let transport = match transport.as_deref() {
        Some("polling") => Transport::Polling,
        Some("websocket") => Transport::WebSocket,
        _ => return Err(Refused::UnknownTransport),
    };
    if version.as_deref() != Some("4") {
        return Err(Refused::UnsupportedVersion);
    }
    let sid = match sid {
        Some(sid) => Some(Sid::parse(&sid).ok_or(Refused::UnknownSid)?),
        None => None,
    };
    Ok(Asked { transport, sid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(query: &str) -> Result<Asked, Refused> {
        read(&Request::get(format!("/engine.io/?{query}")).body(()).unwrap())
    }

    #[test]
    fn queries_are_judged_like_the_reference() {
        assert_eq!(ask("EIO=4&transport=polling&t=x"), Ok(Asked { transport: Transport::Polling, sid: None }));
        assert_eq!(ask("EIO=4&transport=websocket"), Ok(Asked { transport: Transport::WebSocket, sid: None }));
        assert_eq!(ask("EIO=4"), Err(Refused::UnknownTransport));
        assert_eq!(ask("EIO=4&transport=abc"), Err(Refused::UnknownTransport));
        assert_eq!(ask("transport=polling"), Err(Refused::UnsupportedVersion));
        assert_eq!(ask("EIO=abc&transport=polling"), Err(Refused::UnsupportedVersion));
        assert_eq!(ask("EIO=3&transport=polling"), Err(Refused::UnsupportedVersion));
        assert_eq!(ask("EIO=4&transport=polling&sid=made-up"), Err(Refused::UnknownSid));
        assert_eq!(ask("EIO=4&transport=polling&sid="), Err(Refused::UnknownSid));
    }

    #[test]
    fn ids_name_their_owner() {
        let sid = Sid::new(GatewayId([7; 16]));
        assert_eq!(sid.owner(), GatewayId([7; 16]));
        assert_eq!(Sid::parse(&sid.to_string()), Some(sid));
        assert_eq!(ask(&format!("EIO=4&transport=polling&sid={sid}")).unwrap().sid, Some(sid));
    }

    #[test]
    fn refusals_have_the_reference_texts() {
        assert_eq!(Refused::UnknownSid.body(), r#"{"code":1,"message":"Session ID unknown"}"#);
        assert_eq!(Refused::UnknownTransport.body(), r#"{"code":0,"message":"Transport unknown"}"#);
        assert_eq!(Refused::BadHandshakeMethod.body(), r#"{"code":2,"message":"Bad handshake method"}"#);
        assert_eq!(Refused::UnsupportedVersion.body(), r#"{"code":5,"message":"Unsupported protocol version"}"#);
        assert_eq!(Refused::UnknownSid.response().status(), 400);
        for refused in Refused::ALL {
            assert_eq!(Refused::of_number(refused.number()), refused);
        }
        assert_eq!(Refused::of_number(Refused::Closed(4200).number()), Refused::Closed(4200));
        assert_eq!(Refused::of_number(99), Refused::UnknownSid);
        assert_eq!(Refused::of_number(5000), Refused::UnknownSid);
    }
}
