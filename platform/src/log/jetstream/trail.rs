//! Where the records of a room lie in the stream: each stored record bears the sequences of earlier ones, so that history
//! is read by sequence and never by searching the stream for a subject.
//!
//! ```text
//!   record 100 bears   recent: 99, 98, … 84   marks: 96 (of 32), 64 (of 64)
//!   record  96 bears   recent: 95, 94, … 80   marks: 64 (of 32), 64 (of 64)
//! ```
//! The nearest sixteen make a page cheap: sixteen records are read at once. The marks, the last offset that each power of
//! two divides, make a far offset cheap: each step halves the distance that is left.

use carillon_proto::ids::Offset;

use crate::log::Sequence;

/// How many of the nearest records a record points at.
const RECENT: usize = 16;

/// The lowest power of two with a mark: the first one that the nearest records don't cover.
const LOWEST_MARK: u32 = RECENT.ilog2() + 1;

/// The records of a room up to its newest one, as seen from the next one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Trail {
    head: Offset,
    /// Sequences of the offsets `head`, `head - 1`, …: as many as there are, up to [`RECENT`].
    recent: Vec<Sequence>,
    /// Sequence of the last offset that 2^(LOWEST_MARK + index) divides.
    marks: Vec<Sequence>,
}

impl Trail {
    /// The newest offset, 0 in an empty room.
    pub(super) fn head(&self) -> Offset {
        self.head
    }

    /// The sequence of the newest record, 0 in an empty room.
    pub(super) fn last(&self) -> Sequence {
        self.recent.first().copied().unwrap_or(0)
    }

    /// The room grows by a record.
    pub(super) fn push(&mut self, sequence: Sequence) {
        self.head += 1;
        self.recent.truncate(RECENT - 1);
        self.recent.insert(0, sequence);
        self.marks.resize(marks_of(self.head), 0);
        for (mark, power) in self.marks.iter_mut().zip(LOWEST_MARK..) {
            if self.head.trailing_zeros() >= power {
                *mark = sequence;
            }
        }
    }

    /// Every record that it knows: offset and sequence.
    pub(super) fn known(&self) -> impl Iterator<Item = (Offset, Sequence)> + '_ {
        let recent = self.recent.iter().zip(0..).map(|(sequence, back)| (self.head - back, *sequence));
        let marks = self.marks.iter().zip(LOWEST_MARK..).map(|(sequence, power)| (self.head >> power << power, *sequence));
        recent.chain(marks)
    }

    /// As text for a header of the next record, which has this sequence. Each sequence is told by its distance from the
    /// one before it, mostly one or two characters.
    pub(super) fn encode(&self, next: Sequence) -> String {
        let mut text = String::with_capacity(64);
        for sequences in [&self.recent, &self.marks] {
            let mut from = next;
            for &sequence in sequences {
                encode_number(&mut text, from - sequence);
                from = sequence;
            }
        }
        text
    }

    /// What the record with this offset and sequence says of those before it.
    pub(super) fn decode(offset: Offset, sequence: Sequence, text: &str) -> Option<Self> {
        let head = offset.checked_sub(1)?;
        let mut numbers = Numbers(text.bytes());
        let mut sequences = |count| {
            let mut from = sequence;
            (0..count)
                .map(|_| {
                    from = from.checked_sub(numbers.next()?)?;
                    Some(from)
                })
                .collect::<Option<Vec<_>>>()
        };
        let recent = sequences(usize::try_from(head).unwrap_or(RECENT).min(RECENT))?;
        let marks = sequences(marks_of(head))?;
        (numbers.0.len() == 0).then_some(Self { head, recent, marks })
    }
}

/// How many powers of two, from the lowest marked one on, are not above the head.
fn marks_of(head: Offset) -> usize {
    head.checked_ilog2().map_or(0, |top| (top + 1).saturating_sub(LOWEST_MARK) as usize)
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 VLQ as in source maps (ECMA-426, section 5), without the sign: five bits per character, the lowest first, and a
/// sixth that tells whether more follow.
fn encode_number(text: &mut String, mut number: u64) {
    loop {
        let more = if number > 31 { 32 } else { 0 };
        text.push(char::from(DIGITS[(number & 31) as usize | more]));
        number >>= 5;
        if more == 0 {
            return;
        }
    }
}

struct Numbers<'t>(std::str::Bytes<'t>);

impl Numbers<'_> {
    fn next(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(5) {
            let digit = match self.0.next()? {
                letter @ b'A'..=b'Z' => letter - b'A',
                letter @ b'a'..=b'z' => letter - b'a' + 26,
                digit @ b'0'..=b'9' => digit - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            number |= u64::from(digit & 31) << shift;
            if digit < 32 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A room whose offset n has the sequence 3n.
    fn trail(head: Offset) -> Trail {
        let mut trail = Trail::default();
        for offset in 1..=head {
            trail.push(3 * offset);
        }
        trail
    }

    #[test]
    fn known_records_are_right() {
        for head in [0, 1, 15, 16, 17, 31, 32, 33, 100, 4_096, 5_000] {
            let trail = trail(head);
            assert!(trail.known().all(|(offset, sequence)| sequence == 3 * offset), "{head}");
            assert_eq!(trail.recent.len() as u64, head.min(16));
        }
        let marks: Vec<_> = trail(100).known().skip(16).collect();
        assert_eq!(marks, [(96, 288), (64, 192)]);
    }

    #[test]
    fn far_offsets_take_few_steps() {
        let trails: Vec<_> = (0..=20_000)
            .scan(Trail::default(), |trail, n| {
                let before = trail.clone();
                trail.push(3 * (n + 1));
                Some(before)
            })
            .collect();
        for wanted in 1..=20_000 {
            let (mut at, mut steps) = (20_001, 0);
            while at != wanted {
                at = trails[at as usize - 1].known().map(|(offset, _)| offset).filter(|offset| *offset >= wanted).min().unwrap();
                steps += 1;
            }
            assert!(steps <= 14, "{steps} steps to {wanted}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(head in 0_u64..3_000, gap in 1_u64..1 << 40) {
            let mut trail = Trail::default();
            (1..=head).for_each(|offset| trail.push(gap * offset));
            let next = gap * head + 1;
            prop_assert_eq!(Trail::decode(head + 1, next, &trail.encode(next)), Some(trail));
        }

        #[test]
        fn garbage_is_refused(offset in 0_u64..100, text in "[ -~]{0,80}") {
            // Anything but a panic.
            let _ = Trail::decode(offset, 50, &text);
            let _ = Trail::decode(Offset::MAX, 50, &text);
            prop_assert_eq!(Trail::decode(0, 50, &text), None);
        }
    }
}
