//! WebSocket frames (RFC 6455, section 5), the server's side: reads masked frames out of whatever bytes are here,
//! writes unmasked ones. Knows no socket.

use bytes::Bytes;

/// What a client's bytes amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping to be answered with the same bytes (section 5.5.2).
    Ping(&'a [u8]),
    /// An answer to a ping, asked for or not.
    Pong,
    /// The client closes, with a code if it gave one.
    Close(Option<u16>),
}

/// Why the connection must end (section 7.1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// 1002: not RFC 6455.
    Protocol,
    /// 1007: text that is not UTF-8.
    NotUtf8,
    /// 1009: a message over the limit.
    TooBig,
}

/// A connection's place between two reads. An idle one owns no memory.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A message in fragments, so far (section 5.4).
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug)]
struct Fragments {
    is_text: bool,
    count: usize,
    payload: Vec<u8>,
}

/// How many fragments one message may have: they are free to be empty, and nobody may send those for ever. The default message of
/// 64 KiB may come in 4,096.
fn max_fragments(max_message: usize) -> usize {
    (max_message / 16).max(256)
}

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASK: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Section 5.5: control frames carry 125 bytes at most.
const MAX_CONTROL: usize = 125;

struct Header {
    fin: bool,
    opcode: u8,
    payload: usize,
    mask: [u8; 4],
    header: usize,
}

impl Decoder {
    /// Takes frames off the front of `bytes`, telling `on_event` of each, and returns how many bytes are used up: the rest is
    /// the start of a frame, to be shown again with what follows it. Stops after a close, or when `on_event` returns false.
    ///
    /// # Errors
    /// The [`Violation`] that the connection must be closed for.
    pub fn feed(
        &mut self,
        bytes: &mut [u8],
        max_message: usize,
        mut on_event: impl FnMut(Event<'_>) -> bool,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(header) = self.header(&bytes[used..], max_message)? {
            let start = used + header.header;
            let Some(payload) = bytes.get_mut(start..start + header.payload) else { break };
            unmask(payload, header.mask);
            used = start + header.payload;
            let goes_on = match header.opcode {
                PING => on_event(Event::Ping(payload)),
                PONG => on_event(Event::Pong),
                CLOSE => {
                    on_event(Event::Close(close_code(payload)?));
                    false
                }
                _ => self.on_data(&header, payload, max_message, &mut on_event)?,
            };
            if !goes_on {
                break;
            }
        }
        Ok(used)
    }

    /// Whether a message in fragments is under way.
    pub fn is_idle(&self) -> bool {
        self.fragments.is_none()
    }

    fn on_data(
        &mut self,
        header: &Header,
        payload: &[u8],
        max_message: usize,
        on_event: &mut impl FnMut(Event<'_>) -> bool,
    ) -> Result<bool, Violation> {
        match (&mut self.fragments, header.fin) {
            (None, true) => Ok(on_event(message(header.opcode == TEXT, payload)?)),
            (None, false) => {
                self.fragments =
                    Some(Box::new(Fragments { is_text: header.opcode == TEXT, count: 1, payload: payload.to_vec() }));
                Ok(true)
            }
            (Some(fragments), false) if fragments.count >= max_fragments(max_message) => Err(Violation::TooBig),
            (Some(fragments), false) => {
                fragments.count += 1;
                fragments.payload.extend_from_slice(payload);
                Ok(true)
            }
            (Some(fragments), true) => {
                fragments.payload.extend_from_slice(payload);
                let whole = self.fragments.take().expect("matched above");
                Ok(on_event(message(whole.is_text, &whole.payload)?))
            }
        }
    }

    /// The next frame's header, if all of it is here. What can be refused by the header alone is refused before its payload
    /// is waited for.
    fn header(&self, bytes: &[u8], max_message: usize) -> Result<Option<Header>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (fin, opcode) = (first & FIN != 0, first & 0x0F);
        // Section 5.1: a client masks every frame. Section 5.2: no extension was agreed on, so no reserved bit is set.
        if first & RSV != 0 || second & MASK == 0 {
            return Err(Violation::Protocol);
        }
        let (length, extra) = match second & 0x7F {
            126 => match rest.first_chunk::<2>() {
                Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            length => (u64::from(length), 0),
        };
        match opcode {
            CLOSE | PING | PONG if !fin || length > MAX_CONTROL as u64 => return Err(Violation::Protocol),
            CLOSE | PING | PONG => {}
            TEXT | BINARY if self.fragments.is_some() => return Err(Violation::Protocol),
            CONTINUATION if self.fragments.is_none() => return Err(Violation::Protocol),
            TEXT | BINARY | CONTINUATION => {
                let so_far = self.fragments.as_ref().map_or(0, |fragments| fragments.payload.len() as u64);
                // Section 5.2: the most significant bit of a 64-bit length is 0; what has it set is too big anyhow.
                if length > (max_message as u64).saturating_sub(so_far) {
                    return Err(Violation::TooBig);
                }
            }
            _ => return Err(Violation::Protocol),
        }
        let Some(mask) = rest.get(extra..extra + 4).and_then(|mask| mask.first_chunk::<4>()) else { return Ok(None) };
        Ok(Some(Header { fin, opcode, payload: length as usize, mask: *mask, header: 2 + extra + 4 }))
    }
}

fn message(is_text: bool, payload: &[u8]) -> Result<Event<'_>, Violation> {
    if !is_text {
        return Ok(Event::Binary(payload));
    }
    std::str::from_utf8(payload).map(Event::Text).map_err(|_| Violation::NotUtf8)
}

/// Section 7.4: which codes may travel. Section 5.5.1: two bytes of code, then UTF-8.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [_] => Err(Violation::Protocol),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::Protocol);
            }
            std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
            Ok(Some(code))
        }
    }
}

/// Section 5.3, eight bytes at a time: masking is its own inverse.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let plain = u64::from_ne_bytes(chunk.try_into().expect("chunks of eight")) ^ wide;
        chunk.copy_from_slice(&plain.to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// A text frame whose payload `write` appends. One encoding serves every connection.
pub fn text_frame(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    data_frame(FIN | TEXT, write)
}

/// Appends such a frame to others. `write` only appends.
pub fn append_text_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // The header that nearly all have; the others are moved.
    const ROOM: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; ROOM]);
    write(out);
    match out.len() - start - ROOM {
        payload @ 0..=125 => drop(out.splice(start..start + ROOM, [FIN | TEXT, payload as u8])),
        payload @ 126..=0xFFFF => {
            out[start..start + 2].copy_from_slice(&[FIN | TEXT, 126]);
            out[start + 2..start + ROOM].copy_from_slice(&(payload as u16).to_be_bytes());
        }
        payload => {
            let header = [FIN | TEXT, 127].into_iter().chain((payload as u64).to_be_bytes());
            drop(out.splice(start..start + ROOM, header));
        }
    }
}

fn data_frame(first: u8, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    // Room for the longest header; its start is cut off afterwards, so that the payload is written in place.
    const ROOM: usize = 10;
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&[0; ROOM]);
    write(&mut out);
    let payload = out.len() - ROOM;
    let start = match payload {
        0..=125 => {
            out[8..10].copy_from_slice(&[first, payload as u8]);
            8
        }
        126..=0xFFFF => {
            out[6..8].copy_from_slice(&[first, 126]);
            out[8..10].copy_from_slice(&(payload as u16).to_be_bytes());
            6
        }
        _ => {
            out[0..2].copy_from_slice(&[first, 127]);
            out[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            0
        }
    };
    Bytes::from(out).slice(start..)
}

/// The header of a binary frame whose payload of this length follows.
pub fn binary_header(payload: usize) -> Bytes {
    data_header(FIN | BINARY, payload)
}

/// Section 5.2: lengths are as short as they can be.
fn data_header(first: u8, payload: usize) -> Bytes {
    let mut out = vec![first];
    match payload {
        0..=125 => out.push(payload as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(payload as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(payload as u64).to_be_bytes());
        }
    }
    out.into()
}

/// A ping without payload.
pub const PING_FRAME: Bytes = Bytes::from_static(&[FIN | PING, 0]);

/// The answer to a ping.
pub fn pong_frame(payload: &[u8]) -> Bytes {
    control_frame(PONG, payload)
}

/// A close frame; without a code it has no payload.
pub fn close_frame(code: Option<u16>, reason: &str) -> Bytes {
    let mut payload = Vec::with_capacity(2 + reason.len());
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    control_frame(CLOSE, &payload)
}

fn control_frame(opcode: u8, payload: &[u8]) -> Bytes {
    debug_assert!(payload.len() <= MAX_CONTROL, "control frames are short");
    let mut out = Vec::with_capacity(2 + payload.len());
    out.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    out.extend_from_slice(payload);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's frame: masked, lengths as short as they can be.
    fn client(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(MASK | length as u8),
            length @ 126..=0xFFFF => {
                frame.push(MASK | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(MASK | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn read_in_pieces(bytes: &[u8], size: usize, max: usize) -> Result<Vec<String>, Violation> {
        let (mut decoder, mut waiting, mut events) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            waiting.extend_from_slice(piece);
            let used = decoder.feed(&mut waiting, max, |event| {
                events.push(format!("{event:?}"));
                true
            })?;
            waiting.drain(..used);
        }
        Ok(events)
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, Violation> {
        read_in_pieces(bytes, usize::MAX, 65_536)
    }

    #[test]
    fn rfc_example_is_read() {
        // Section 5.7: a single-frame masked text message.
        let frame = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(read(&frame).unwrap(), [r#"Text("Hello")"#]);
    }

    #[test]
    fn pieces_of_any_size_are_the_same() {
        let mut bytes = client(FIN | TEXT, "a".repeat(300).as_bytes());
        bytes.extend(client(TEXT, b"fr"));
        bytes.extend(client(FIN | PING, b"p"));
        bytes.extend(client(FIN | CONTINUATION, "ä".as_bytes()));
        bytes.extend(client(FIN | BINARY, &[0; 70_000][..65_536]));
        bytes.extend(client(FIN | CLOSE, &[0x03, 0xe8]));
        let whole = read(&bytes).unwrap();
        assert_eq!(whole.len(), 5);
        assert_eq!(whole[1..3], ["Ping([112])", r#"Text("frä")"#]);
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(read_in_pieces(&bytes, size, 65_536).unwrap(), whole);
        }
    }

    #[test]
    fn limit_is_exact() {
        let at_limit = client(FIN | TEXT, &[b'a'; 100]);
        assert!(read_in_pieces(&at_limit, 10, 100).is_ok());
        assert_eq!(read_in_pieces(&client(FIN | TEXT, &[b'a'; 101]), 10, 100), Err(Violation::TooBig));
        let mut fragments = client(TEXT, &[b'a'; 60]);
        fragments.extend(client(CONTINUATION, &[b'a'; 40]));
        fragments.extend(client(FIN | CONTINUATION, b"a"));
        assert_eq!(read_in_pieces(&fragments, 1000, 100), Err(Violation::TooBig));
        // Refused by its header, before any of it is here.
        assert_eq!(read(&[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Err(Violation::TooBig));
    }

    #[test]
    fn violations_are_named() {
        let cases: [(&[u8], Violation); 12] = [
            (&[0x81, 0x01, b'a'], Violation::Protocol),
            (&client(0xC1, b"a"), Violation::Protocol),
            (&client(FIN | 0x3, b"a"), Violation::Protocol),
            (&client(FIN | 0xB, b"a"), Violation::Protocol),
            (&client(PING, b"a"), Violation::Protocol),
            (&client(FIN | PING, &[0; 126]), Violation::Protocol),
            (&client(FIN | CONTINUATION, b"a"), Violation::Protocol),
            (&client(FIN | CLOSE, &[3]), Violation::Protocol),
            (&client(FIN | CLOSE, &1005u16.to_be_bytes()), Violation::Protocol),
            (&client(FIN | CLOSE, &999u16.to_be_bytes()), Violation::Protocol),
            (&client(FIN | CLOSE, &[0x03, 0xe8, 0xff]), Violation::NotUtf8),
            (&client(FIN | TEXT, &[0xce, 0xba, 0xff]), Violation::NotUtf8),
        ];
        for (bytes, violation) in cases {
            assert_eq!(read(bytes), Err(violation), "{bytes:?}");
        }
        let mut nested = client(TEXT, b"a");
        nested.extend(client(FIN | TEXT, b"b"));
        assert_eq!(read(&nested), Err(Violation::Protocol));
    }

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let frame = text_frame(|out| out.resize(out.len() + length, b'a'));
            assert_eq!(frame.len(), length + header);
            let mut behind = b"before".to_vec();
            append_text_frame(&mut behind, |out| out.resize(out.len() + length, b'a'));
            assert_eq!(behind, [b"before", &frame[..]].concat());
            assert_eq!(frame[0], 0x81);
            assert_eq!(binary_header(length)[1..], frame[1..header]);
        }
    }
}
