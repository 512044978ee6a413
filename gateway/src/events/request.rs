//! What a request for events asks for: whose or which rooms, from where on, and with which token.

use carillon_proto::{
    codes::ErrorCode,
    cursor::{Cursor, Unreadable},
    ids::{ClientId, RoomName},
};
use http::{HeaderMap, Request, header};

use crate::{
    asked,
    config::Config,
    http::{cors, reply::Problem},
    websocket::handshake::bearer,
};

/// The most rooms of one request.
pub(super) const ROOMS: usize = 64;
const COOKIE: &str = "carillon_token";

#[derive(Debug)]
pub(super) struct Asked {
    /// From the first place that holds one.
    pub(super) token: Option<String>,
    pub(super) wanted: Wanted,
    pub(super) client: Option<ClientId>,
    /// Where the client says that it stands, if it says so.
    pub(super) cursor: Option<Result<Cursor, Unreadable>>,
}

#[derive(Debug)]
pub(super) enum Wanted {
    /// The personal room of the user of this name.
    Personal(String),
    /// These, each once, in the order of their names.
    Rooms(Vec<RoomName>),
}

/// Reads the request; `path_user` is what stands behind `/events/`.
///
/// # Errors
/// 400 for names that are none and for too many rooms, 403 for a cookie that a foreign page made the browser send.
pub(super) fn read<B>(request: &Request<B>, path_user: Option<&str>, config: &Config) -> Result<Asked, Problem> {
    let headers = request.headers();
    let mut query = Query::default();
    for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
        match &*name {
            // A place that holds none is passed over.
            "token" if !value.is_empty() => query.token = query.token.or(Some(value.into_owned())),
            "client" => query.client = query.client.or(Some(value.into_owned())),
            "lastEventId" => query.last = query.last.or(Some(value.into_owned())),
            "room" => query.rooms.push(value.into_owned()),
            _ => {}
        }
    }
    let wanted = match path_user {
        Some(user) => Wanted::Personal(user.to_owned()),
        None => Wanted::Rooms(rooms(&query.rooms, config.rooms.rooms_per_connection)?),
    };
    let client = match query.client.as_deref().map(ClientId::parse) {
        Some(Ok(client)) => Some(client),
        Some(Err(_)) => return Err(Problem::new(ErrorCode::BadRequest, "client is 1 to 64 of A-Z a-z 0-9 _ -")),
        None => None,
    };
    let last = match headers.get("last-event-id") {
        // Whatever it is, it is not readable: that is told.
        Some(last) => Some(last.to_str().unwrap_or("\0").to_owned()),
        None => query.last,
    };
    let cursor = last.filter(|last| !last.is_empty()).map(|last| Cursor::parse(&last, Cursor::MAX_ID_BYTES));
    let token = match bearer(headers).or(query.token) {
        Some(token) => Some(token),
        None => from_cookie(headers, config)?,
    };
    Ok(Asked { token, wanted, client, cursor })
}

#[derive(Default)]
struct Query {
    token: Option<String>,
    client: Option<String>,
    last: Option<String>,
    rooms: Vec<String>,
}

fn rooms(names: &[String], per_connection: usize) -> Result<Vec<RoomName>, Problem> {
    let parsed = names.iter().map(|name| RoomName::parse(name));
    let mut rooms: Vec<RoomName> = parsed
        .collect::<Result<_, _>>()
        .map_err(|error| Problem::new(ErrorCode::RoomInvalid, format!("the room name {error}")))?;
    rooms.sort();
    rooms.dedup();
    let most = ROOMS.min(per_connection);
    match rooms.len() {
        0 => Err(Problem::new(ErrorCode::BadRequest, "name at least one room: /events?room=…")),
        count if count > most => Err(Problem::new(ErrorCode::TooManyRooms, format!("at most {most} rooms"))),
        _ => Ok(rooms),
    }
}

/// A browser sends its cookies whoever makes it ask, so that one counts only where the page is known to be a good one.
fn from_cookie(headers: &HeaderMap, config: &Config) -> Result<Option<String>, Problem> {
    let Some(token) = asked::cookie(headers, COOKIE) else { return Ok(None) };
    let is_listed = headers.get(header::ORIGIN).is_some_and(|origin| cors::is_allowed(origin, &config.origins));
    if !is_listed && !cors::is_same_origin(headers) {
        return Err(cors::not_listed());
    }
    Ok(Some(token.to_owned()))
}
