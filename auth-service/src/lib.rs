//! Tokens: who is believed, and what a token says. Keys come from the settings; nothing here knows a connection, and
//! what a grant allows is for `carillon-core`.

mod authority;
mod dev_key;
mod keys;

pub use authority::Authority;
pub use dev_key::{DevKeyError, dev_key};
pub use keys::KeyError;
