//! What a load says: `"~publisher~number~nanoseconds~xxx…"`, a JSON string that can be found and read in a frame without
//! parsing it. `number` counts a publisher's messages in one room from 1; the time is when it was meant to be sent.

/// The content of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) publisher: u32,
    pub(crate) number: u32,
    pub(crate) time_ns: u64,
}

/// Room for the numbers; a payload is no shorter.
pub(crate) const LEAST_BYTES: usize = 64;

impl Said {
    /// JSON text of `bytes` bytes.
    pub(crate) fn write(self, bytes: usize, out: &mut Vec<u8>) {
        use std::io::Write as _;
        let start = out.len();
        write!(out, "\"~{}~{}~{}~", self.publisher, self.number, self.time_ns).expect("a Vec takes everything");
        out.resize((start + bytes).max(out.len() + 1) - 1, b'x');
        out.push(b'"');
    }

    /// The first one in a frame, and where it ends.
    pub(crate) fn find(frame: &[u8]) -> Option<(Self, usize)> {
        let mut at = memchr::memchr(b'~', frame)? + 1;
        let mut number = || {
            let mut value = 0u64;
            loop {
                match *frame.get(at)? {
                    digit @ b'0'..=b'9' => value = value * 10 + u64::from(digit - b'0'),
                    b'~' => break,
                    _ => return None,
                }
                at += 1;
            }
            at += 1;
            Some(value)
        };
        let said = Self { publisher: number()? as u32, number: number()? as u32, time_ns: number()? };
        Some((said, at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_is_found_again() {
        let said = Said { publisher: 3, number: 17, time_ns: 123_456_789 };
        let mut frame = br#"{"type":"message","room":"a","payload":"#.to_vec();
        said.write(128, &mut frame);
        assert_eq!(frame.len(), 39 + 128);
        frame.extend_from_slice(br#","offset":4}"#);
        assert_eq!(Said::find(&frame).unwrap().0, said);
        assert_eq!(Said::find(br#"{"payload":"~x~"}"#), None);
    }
}
