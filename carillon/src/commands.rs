//! What each command does.

pub(crate) mod serve;
pub(crate) mod token;
