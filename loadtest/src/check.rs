//! What one member knows of one room, and whether the next message may follow.

/// A member's place in a room's log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat {
    pub(crate) room: u32,
    /// The newest offset that it was given, or stood at when it joined.
    pub(crate) last: u64,
    pub(crate) epoch: String,
    /// It joined once, and must miss nothing from then on.
    pub(crate) is_known: bool,
    /// It is in the room now.
    pub(crate) is_seated: bool,
    /// The newest number of each publisher whose messages are not stored.
    pub(crate) numbers: Vec<(u32, u32)>,
}

/// How a message follows the one before it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    Next,
    /// So many are missing in between.
    Gap(u64),
    Repeat,
}

impl Seat {
    pub(crate) fn on_stored(&mut self, offset: u64) -> Follows {
        let follows = follow(self.last, offset);
        self.last = self.last.max(offset);
        follows
    }

    /// Numbers of messages that are not stored follow each other too, from the first one that is heard on.
    pub(crate) fn on_ephemeral(&mut self, publisher: u32, number: u32) -> Follows {
        match self.numbers.iter_mut().find(|(of, _)| *of == publisher) {
            Some((_, last)) => {
                let follows = follow(u64::from(*last), u64::from(number));
                *last = number.max(*last);
                follows
            }
            None => {
                self.numbers.push((publisher, number));
                Follows::Next
            }
        }
    }
}

fn follow(last: u64, next: u64) -> Follows {
    match next {
        _ if next <= last => Follows::Repeat,
        _ if next == last + 1 => Follows::Next,
        _ => Follows::Gap(next - last - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repeats_are_seen() {
        let mut seat = Seat { last: 4, ..Seat::default() };
        assert_eq!(seat.on_stored(5), Follows::Next);
        assert_eq!(seat.on_stored(5), Follows::Repeat);
        assert_eq!(seat.on_stored(8), Follows::Gap(2));
        assert_eq!(seat.on_stored(9), Follows::Next);
        assert_eq!(seat.on_ephemeral(1, 7), Follows::Next);
        assert_eq!(seat.on_ephemeral(2, 1), Follows::Next);
        assert_eq!(seat.on_ephemeral(1, 9), Follows::Gap(1));
        assert_eq!(seat.on_ephemeral(1, 9), Follows::Repeat);
    }
}
