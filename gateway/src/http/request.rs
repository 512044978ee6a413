//! One request as a connection: it is in no room, asks one thing, and is answered once. So a publish over HTTP takes the very
//! way of a `broadcast`, with all its rules.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use bytes::Bytes;
use carillon_core::rooms::Conn;
use carillon_platform::telemetry::Parent;
use carillon_proto::{
    claims::Claims,
    codes::ErrorCode,
    frame::{ClientFrame, ServerFrame},
    ids::{ClientId, UserId},
};
use http::StatusCode;
use tokio::sync::oneshot;

use super::{
    Front, Reply,
    answers::{Account, Answers, Room},
    reply::{Problem, empty, json},
};
use crate::shard::Shard;

/// What the shard keeps of a request.
pub(crate) struct Request {
    /// Of the app instance in whose name it asks, if it says so; without one nobody is excluded from what it publishes.
    pub(crate) client: Option<ClientId>,
    /// Its trace, of which what it publishes is a part.
    pub(crate) parent: Parent,
    answer: Option<oneshot::Sender<Answer>>,
    /// Where what it is told is counted, and whose it is.
    counted: (Arc<Answers>, UserId),
}

/// What a request is told.
enum Answer {
    Json(StatusCode, Vec<u8>, Option<Room>),
    Done,
    Refused(Problem),
}

/// The mark by which a request's answer is known: it asks only one thing.
pub(crate) const REFERENCE: &str = "1";

/// Requests under way on one shard; further ones are told to come again. A publish waits for its answer for
/// `limits.publish_timeout_ms` at most, everything else for `limits.request_timeout_ms`.
pub(crate) const AT_ONCE: usize = 8192;

impl Request {
    /// A frame from the rooms. The first that answers anything is the answer.
    pub(crate) fn on_frame(&mut self, frame: &ServerFrame<'_>) {
        let Some(answer) = answer(frame) else { return };
        if let Some(waiting) = self.answer.take() {
            // The client may be gone.
            let _ = waiting.send(self.count(frame, answer));
        }
    }

    /// What was only read is not told where there is no room for it. It is counted at once: many may come in one turn.
    fn count(&self, frame: &ServerFrame<'_>, answer: Answer) -> Answer {
        match answer {
            Answer::Json(status, text, None) if matches!(frame, ServerFrame::History { .. } | ServerFrame::Presence { .. }) => {
                let (answers, user) = &self.counted;
                match answers.hold(Account::User(user.clone()), text.len()) {
                    Ok(room) => Answer::Json(status, text, Some(room)),
                    Err(refused) => Answer::Refused(refused),
                }
            }
            other => other,
        }
    }
}

fn answer(frame: &ServerFrame<'_>) -> Option<Answer> {
    let json = |status, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::with_capacity(frame.about_bytes());
        write(&mut out);
        Some(Answer::Json(status, out, None))
    };
    match *frame {
        ServerFrame::Ack { duplicate: true, .. } => json(StatusCode::OK, &|out| frame.write_answer(out)),
        ServerFrame::Ack { .. } => json(StatusCode::CREATED, &|out| frame.write_answer(out)),
        ServerFrame::History { .. } | ServerFrame::Presence { .. } => json(StatusCode::OK, &|out| frame.write_resource(out)),
        ServerFrame::Erased { .. } => Some(Answer::Done),
        ServerFrame::Error { code, message, retry_after_ms, outcome_unknown, .. } => {
            let problem = Problem::new(code, message.to_owned());
            Some(Answer::Refused(problem.retry_after_ms(retry_after_ms).outcome_unknown(outcome_unknown)))
        }
        _ => None,
    }
}

impl Answer {
    fn into_reply(self) -> Result<Reply, Problem> {
        match self {
            Self::Json(status, text, room) => Ok(json(status, Bytes::from(text)).map(|body| match room {
                Some(room) => body.counted(|_| room),
                None => body,
            })),
            Self::Done => Ok(empty(StatusCode::NO_CONTENT)),
            Self::Refused(problem) => Err(problem),
        }
    }
}

/// Asks the rooms one thing and waits for the answer.
pub(super) async fn ask(
    front: &Front,
    claims: Claims,
    client: Option<ClientId>,
    parent: Parent,
    frame: ClientFrame<'_>,
) -> Result<Reply, Problem> {
    let (answer, answered) = oneshot::channel();
    let user = user(&claims)?;
    // Before anything is read for it.
    front.answers.admit(&Account::User(user.clone()))?;
    let request = Request { client, parent, answer: Some(answer), counted: (front.answers.clone(), user) };
    let asked = front.shard.borrow_mut().on_request(claims, request, frame);
    let Some(conn) = asked else {
        return Err(Problem::new(ErrorCode::Unavailable, "too many requests are under way").retry_after_ms(1000));
    };
    let _under_way = UnderWay { shard: front.shard.clone(), conn };
    match answered.await {
        Ok(answer) => answer.into_reply(),
        Err(_) => Err(Problem::new(ErrorCode::Internal, "the request was given up")),
    }
}

/// Takes the request out of the shard, also when its client went before the answer.
struct UnderWay {
    shard: Rc<RefCell<Shard>>,
    conn: Conn,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shard.borrow_mut().drop_connection(self.conn);
    }
}

/// Whether a user may ask once more now.
pub(super) fn admit(front: &Front, claims: &Claims) -> Result<(), Problem> {
    let taken = front.rates.take(&user(claims)?);
    taken.map_err(|ms| Problem::new(ErrorCode::RateLimited, "too many requests").retry_after_ms(ms))
}

fn user(claims: &Claims) -> Result<UserId, Problem> {
    UserId::parse(&claims.sub).map_err(|_| Problem::new(ErrorCode::Unauthorized, "the token's user is no legal name"))
}
