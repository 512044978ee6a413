//! One small document over HTTP, or over HTTPS with the system's roots.

use std::time::Duration;

use bytes::Bytes;
use carillon_platform::{outbound::Place, settings::Url};

/// For all of it: the look-up of the name, the connection, the answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest document. A set of four RSA keys with certificate chains is some 20 KiB.
const DOCUMENT_BYTES: usize = 256 * 1024;

/// Where a document is, and how it is got.
pub(crate) struct Document(Place);

impl Document {
    /// Goes to no network yet. The error is for whoever wrote the address.
    pub(crate) fn at(url: &Url) -> Result<Self, String> {
        Place::at(url).map(Self)
    }

    /// Its bytes now.
    pub(crate) async fn fetch(&self) -> Result<Bytes, String> {
        let accept = [("accept", "application/jwk-set+json, application/json")];
        match self.0.get(&accept, DOCUMENT_BYTES, TIMEOUT).await? {
            (200, body) => Ok(body),
            (status, _) => Err(format!("expected the answer 200, found {status}")),
        }
    }
}
