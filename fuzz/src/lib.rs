//! What the fuzz targets do.

mod frames;

/// See `frames.rs`.
pub fn frames(bytes: &[u8]) {
    frames::run(bytes);
}
