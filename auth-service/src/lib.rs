//! Tokens: who is believed, and what a token says. Keys come from the settings; what a grant allows is for
//! `carillon-core`. The authority can be asked in the same process, or over gRPC by those who have another.

mod authority;
mod dev_key;
mod fetch;
mod key_set;
mod keys;
mod remote_keys;
mod revoker;
mod service;

pub use authority::Authority;
pub use dev_key::{DevKeyError, dev_key};
pub use key_set::usable_keys;
pub use keys::KeyError;
pub use revoker::Revoker;
pub use service::{AuthService, Counters};
