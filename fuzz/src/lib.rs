//! What the fuzz targets do.

mod cursor;
mod engineio;
mod frames;
mod posts;
mod requests;
mod tokens;

/// See `cursor.rs`.
pub fn cursor(bytes: &[u8]) {
    cursor::run(bytes);
}

/// See `frames.rs`.
pub fn frames(bytes: &[u8]) {
    frames::run(bytes);
}

/// See `tokens.rs`.
pub fn tokens(bytes: &[u8]) {
    tokens::run(bytes);
}

/// See `tokens.rs`.
pub fn keys(bytes: &[u8]) {
    tokens::run_keys(bytes);
}

/// See `engineio.rs`.
pub fn engineio(bytes: &[u8]) {
    engineio::run(bytes);
}

/// See `requests.rs`.
pub fn requests(bytes: &[u8]) {
    requests::run(bytes);
}

/// See `posts.rs`.
pub fn posts(bytes: &[u8]) {
    posts::run(bytes);
}
