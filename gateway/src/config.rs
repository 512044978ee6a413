//! A gateway's limits and times, taken from the settings once, in the units that the code counts in.

use carillon_core::{rate::Rate, rooms::RoomLimits, session::SessionLimits};
use carillon_platform::settings::{Origins, Settings};
use carillon_proto::frame;

/// See [`Settings`] for what each of them means.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // Named as the settings are.
pub struct Config {
    pub shards: usize,
    pub origins: Origins,
    pub session: SessionLimits,
    pub rooms: RoomLimits,
    pub told: frame::Limits,
    pub frame_bytes: usize,
    pub outbox_bytes: usize,
    /// Of one shard: its part of the whole.
    pub outbox_total_bytes: usize,
    /// Of all shards together, as what follows.
    pub answers_user_bytes: usize,
    pub answers_total_bytes: usize,
    pub answer_stall_ms: u64,
    pub http_sockets_per_user: usize,
    /// Of all shards together.
    pub connections: usize,
    /// Of one shard: its part of the whole.
    pub unauthenticated: usize,
    pub token_bytes: usize,
    pub handshake_ms: u64,
    pub heartbeat_interval_ms: u64,
    pub heartbeat_timeout_ms: u64,
    pub sse_heartbeat_ms: u64,
    pub sse_retry_ms: u64,
    pub leeway_ms: u64,
    pub drain_window_ms: u64,
    pub socketio_path: String,
    pub socketio_ping_interval_ms: u64,
    pub socketio_ping_timeout_ms: u64,
    pub recovery_s: u64,
}

impl Config {
    /// From the settings.
    pub fn new(settings: &Settings) -> Self {
        let limits = &settings.limits;
        let per_core = || std::thread::available_parallelism().map_or(1, usize::from);
        let joins = u32::try_from(limits.rooms_per_connection).unwrap_or(u32::MAX);
        let shards = if settings.gateway.shards == 0 { per_core() } else { settings.gateway.shards };
        Self {
            shards,
            origins: settings.origins.clone(),
            session: SessionLimits {
                frames: Rate { per_second: limits.frames_per_second, burst: limits.frames_burst },
                joins: Rate { per_second: joins, burst: joins },
                json_depth: limits.json_depth,
            },
            rooms: RoomLimits {
                connections_per_user: u32::try_from(limits.connections_per_user).unwrap_or(u32::MAX),
                rooms_per_connection: limits.rooms_per_connection,
                replay_messages: u32::try_from(limits.replay_messages).unwrap_or(u32::MAX),
                replay_outbox_bytes: limits.outbox_bytes / 4,
                // The other half is for what is said meanwhile.
                replay_total_bytes: limits.outbox_total_bytes / shards / 2,
                answer_bytes: limits.answer_bytes,
                publish_timeout_ms: limits.publish_timeout_ms,
                request_timeout_ms: limits.request_timeout_ms,
                ..RoomLimits::default()
            },
            told: frame::Limits {
                frame_bytes: limits.frame_bytes,
                rooms: limits.rooms_per_connection,
                frames_per_second: limits.frames_per_second,
                frames_burst: Some(limits.frames_burst).filter(|burst| *burst < limits.frames_per_second),
            },
            frame_bytes: limits.frame_bytes,
            outbox_bytes: limits.outbox_bytes,
            outbox_total_bytes: limits.outbox_total_bytes / shards,
            answers_user_bytes: limits.answers_user_bytes,
            answers_total_bytes: limits.answers_total_bytes,
            answer_stall_ms: limits.answer_stall_ms,
            http_sockets_per_user: limits.http_sockets_per_user,
            connections: limits.connections.unwrap_or(usize::MAX),
            unauthenticated: limits.unauthenticated.div_ceil(shards),
            token_bytes: limits.token_bytes,
            handshake_ms: limits.handshake_ms,
            heartbeat_interval_ms: settings.heartbeat.interval_ms,
            heartbeat_timeout_ms: settings.heartbeat.timeout_ms,
            sse_heartbeat_ms: settings.sse.heartbeat_ms,
            sse_retry_ms: settings.sse.retry_ms,
            leeway_ms: settings.jwt.leeway_s * 1000,
            drain_window_ms: settings.drain.window_ms,
            socketio_path: settings.socketio.path.clone(),
            socketio_ping_interval_ms: settings.socketio.ping_interval_ms,
            socketio_ping_timeout_ms: settings.socketio.ping_timeout_ms,
            recovery_s: settings.socketio.recovery_s,
        }
    }
}
