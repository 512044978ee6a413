//! Publishes of a shard that have no answer yet, for as long as they take. The rooms know what to do about them; here is only
//! looked at the clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use carillon_proto::link::{Down, Failed, Published, down, failed};

/// By the number that [`carillon_core::rooms::Rooms::publish`] gave.
#[derive(Debug, Default)]
pub(crate) struct Publishes {
    under_way: HashMap<u64, Instant>,
}

impl Publishes {
    /// A publish is on its way.
    pub(crate) fn on_sent(&mut self, publish: u64, now: Instant) {
        self.under_way.insert(publish, now);
    }

    /// How long the publish took that this answers, if it answers one.
    pub(crate) fn on_down(&mut self, down: &Down, now: Instant) -> Option<Duration> {
        let publish = match down.item.as_ref()? {
            down::Item::Published(Published { publish, .. }) => publish,
            down::Item::Failed(Failed { of: Some(failed::Of::Publish(publish)), .. }) => publish,
            _ => return None,
        };
        Some(now.saturating_duration_since(self.under_way.remove(publish)?))
    }

    /// Forgets what is older than any answer: an ephemeral message that nobody waits for is not said again when it is lost.
    pub(crate) fn forget_older(&mut self, than: Duration, now: Instant) {
        self.under_way.retain(|_, sent| now.saturating_duration_since(*sent) <= than);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_once() {
        let mut publishes = Publishes::default();
        let start = Instant::now();
        publishes.on_sent(1, start);
        publishes.on_sent(2, start);
        let answer = |publish| Down { item: Some(down::Item::Published(Published { publish, ..Published::default() })) };
        let (later, took) = (start + Duration::from_millis(3), Some(Duration::from_millis(3)));
        assert_eq!([1, 1, 7].map(|publish| publishes.on_down(&answer(publish), later)), [took, None, None]);
        let refused = Failed { of: Some(failed::Of::Publish(2)), ..Failed::default() };
        assert_eq!(publishes.on_down(&Down { item: Some(down::Item::Failed(refused)) }, later), took);
    }

    #[test]
    fn lost_ones_are_forgotten() {
        let mut publishes = Publishes::default();
        let start = Instant::now();
        publishes.on_sent(1, start);
        publishes.forget_older(Duration::from_secs(1), start + Duration::from_secs(1));
        assert_eq!(publishes.under_way.len(), 1);
        publishes.forget_older(Duration::from_secs(1), start + Duration::from_secs(2));
        assert_eq!(publishes.under_way.len(), 0);
    }
}
