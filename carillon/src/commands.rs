//! What each command does.

pub(crate) mod backup;
pub(crate) mod connections;
pub(crate) mod doctor;
pub(crate) mod load;
pub(crate) mod manual;
pub(crate) mod publish;
pub(crate) mod restore;
pub(crate) mod rooms;
pub(crate) mod serve;
mod server;
mod shown;
pub(crate) mod tail;
pub(crate) mod token;

pub(crate) use server::run as run_client;
