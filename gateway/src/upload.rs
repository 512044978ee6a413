//! The body of a request. A request may be refused before its body is here, and most clients read no answer while they still
//! write: hanging up on them would reset the connection under the answer. So what nobody wants is read all the same, and thrown
//! away, up to a limit.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::timeout;

/// Of a body that nobody wants, so much is read: a photo that somebody tried to send. Who sends more finds the connection
/// closed. It costs no memory, only the network's time.
const UNWANTED_BYTES: usize = 8 << 20;
/// And for so long, all told, and without anything of it coming.
const UNWANTED_PATIENCE: Duration = Duration::from_secs(5);
const UNWANTED_PAUSE: Duration = Duration::from_secs(1);

/// A body that is read to its end even if it is dropped before. Only of use where tasks of this thread can be spawned.
#[derive(Debug)]
pub struct Upload {
    body: Option<Incoming>,
    /// Whether its client is writing it, come what may.
    comes: bool,
}

impl Upload {
    /// Of a request that has just come in.
    pub fn of(request: Request<Incoming>) -> Request<Self> {
        // Over HTTP/2 an answer does not depend on what is still to come (RFC 9113, section 8.1), and who asks first whether to
        // send a body (RFC 9110, section 10.1.1) sends none when it is refused.
        let comes = request.version() < Version::HTTP_2 && !request.headers().contains_key(header::EXPECT);
        request.map(|body| Self { body: Some(body), comes })
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let body = self.body.as_mut().expect("it is taken when this is dropped");
        Pin::new(body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.comes
            && !body.is_end_stream()
        {
            tokio::task::spawn_local(timeout(UNWANTED_PATIENCE, throw_away(body)));
        }
    }
}

/// Reads what is left, until the end or a limit.
async fn throw_away(body: Incoming) {
    let (mut body, mut left) = (pin!(body), UNWANTED_BYTES);
    while let Ok(Some(Ok(frame))) = timeout(UNWANTED_PAUSE, body.frame()).await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
