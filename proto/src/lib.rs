//! What travels, and nothing else: names that parse once, the frames of the client wire, the codes that tell a
//! client what to do next, the claims of a token, and the messages that services say to each other.
//!
//! `PROTOCOL.md` beside this crate is the same contract in prose; `vectors/` holds it as examples that the tests
//! of every language read.

pub mod claims;
pub mod codes;
pub mod cursor;
pub mod frame;
pub mod ids;
pub mod sse;

/// The auth service, client and server: see `carillon/auth/v1/auth.proto`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all)]
pub mod auth {
    tonic::include_proto!("carillon.auth.v1");
}

/// Between gateways and owners: see `carillon/link/v1/link.proto`.
#[allow(missing_docs, clippy::all)]
pub mod link {
    include!(concat!(env!("OUT_DIR"), "/carillon.link.v1.rs"));

    use crate::ids::{GatewayId, PartitionId};

    /// The format of every batch; a reader refuses versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where the owner of a partition listens.
    pub fn up_subject(partition: PartitionId) -> String {
        format!("pub.{partition}")
    }

    /// Where a gateway hears the owner of a partition.
    pub fn down_subject(gateway: GatewayId, partition: PartitionId) -> String {
        format!("gw.{gateway}.{partition}")
    }
}

/// Who owns which partition: see `carillon/lease/v1/lease.proto`.
#[allow(missing_docs, clippy::all)]
pub mod lease {
    include!(concat!(env!("OUT_DIR"), "/carillon.lease.v1.rs"));

    /// The format of every lease and note; a reader refuses versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where fanout replicas hear of each other.
    pub const NOTES: &str = "leases";

    /// Where gateways hear of new owners.
    pub const OWNERS: &str = "owners";
}

/// What the log stores: see `carillon/log/v1/record.proto`.
#[allow(missing_docs, clippy::all)]
pub mod log {
    include!(concat!(env!("OUT_DIR"), "/carillon.log.v1.rs"));

    /// The format of every stored record; a reader refuses versions that it does not know.
    pub const VERSION: u32 = 1;
}

/// What every gateway has to hear: see `carillon/notice/v1/notice.proto`.
#[allow(missing_docs, clippy::all)]
pub mod notice {
    include!(concat!(env!("OUT_DIR"), "/carillon.notice.v1.rs"));

    /// The format of every notice and every stored revocation; a reader refuses versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where all gateways listen.
    pub const SUBJECT: &str = "notice";
}

/// Between gateway shards, about Engine.IO clients: see `carillon/engineio/v1/engineio.proto`.
#[allow(missing_docs, clippy::all)]
pub mod engineio {
    include!(concat!(env!("OUT_DIR"), "/carillon.engineio.v1.rs"));

    use crate::ids::GatewayId;

    /// The format of every envelope; a reader ignores versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where a gateway shard hears others.
    pub fn subject(gateway: GatewayId) -> String {
        format!("eio.{gateway}")
    }
}

/// What is kept of Socket.IO clients: see `carillon/socketio/v1/record.proto`.
#[allow(missing_docs, clippy::all)]
pub mod socketio {
    include!(concat!(env!("OUT_DIR"), "/carillon.socketio.v1.rs"));

    /// The format of every record; a reader ignores versions that it does not know.
    pub const VERSION: u32 = 1;
}

/// What gateways say of themselves: see `carillon/status/v1/status.proto`.
#[allow(missing_docs, clippy::all)]
pub mod status {
    include!(concat!(env!("OUT_DIR"), "/carillon.status.v1.rs"));

    /// The format of every status; a reader ignores versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where gateways hear of each other.
    pub const SUBJECT: &str = "gateways";
}

/// What a gateway asks all others for an admin: see `carillon/survey/v1/survey.proto`.
#[allow(missing_docs, clippy::all)]
pub mod survey {
    include!(concat!(env!("OUT_DIR"), "/carillon.survey.v1.rs"));

    /// The format of every question and answer; a reader ignores versions that it does not know.
    pub const VERSION: u32 = 1;

    /// Where owners and gateways hear what they are asked.
    pub const QUESTIONS: &str = "survey";

    /// Where the gateway process that asked hears the answers; `None` for what is no id of one.
    pub fn answers(gateway: &str) -> Option<String> {
        let is_id = (1..=64).contains(&gateway.len()) && gateway.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then(|| format!("survey.{gateway}"))
    }
}
