//! Publishes of a shard that have no answer yet: how long they take, and the trace of those that are sampled. The rooms know what
//! to do about them; here is only looked on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use carillon_platform::telemetry::{Span, SpanKind, Tracer};
use carillon_proto::link::{Down, DownBatch, Failed, Published, UpBatch, down, failed, up};

/// By the number that [`carillon_core::rooms::Rooms::publish`] gave.
#[derive(Default)]
pub(crate) struct Publishes {
    under_way: HashMap<u64, (Instant, Option<Span>)>,
}

/// Traced messages of a batch, until they are in the outboxes of their members.
pub(crate) struct FanOut(Vec<Span>);

impl Publishes {
    /// A publish is on its way.
    pub(crate) fn on_sent(&mut self, publish: u64, now: Instant, span: Option<Span>) {
        self.under_way.insert(publish, (now, span));
    }

    /// A batch leaves for its owner: each time that a publish is said is a hop of its own.
    pub(crate) fn on_batch_leaves(tracer: &Tracer, batch: &mut UpBatch, subject: &str) {
        if !tracer.is_on() {
            return;
        }
        for item in &mut batch.items {
            let Some(up::Item::Publish(publish)) = &mut item.item else { continue };
            let Some(mut span) = tracer.child("send", SpanKind::Producer, &publish.traceparent) else { continue };
            span.set("messaging.system", "carillon");
            span.set("messaging.operation.type", "send");
            span.set("messaging.destination.name", subject);
            publish.traceparent = span.context().to_string();
        }
    }

    /// A batch has come with traced messages.
    pub(crate) fn on_batch_comes(tracer: &Tracer, batch: &DownBatch) -> FanOut {
        if !tracer.is_on() {
            return FanOut(Vec::new());
        }
        let traced = batch.items.iter().filter_map(|down| {
            let Some(down::Item::Message(message)) = &down.item else { return None };
            let mut span = tracer.child("fan out", SpanKind::Consumer, &message.traceparent)?;
            span.set("messaging.system", "carillon");
            span.set("messaging.operation.type", "process");
            span.set("messaging.destination.name", message.room.as_str());
            span.set("carillon.offset", message.offset);
            Some(span)
        });
        FanOut(traced.collect())
    }

    /// How long the publish took that this answers, if it answers one.
    pub(crate) fn on_down(&mut self, down: &Down, now: Instant) -> Option<Duration> {
        let (publish, outcome) = match down.item.as_ref()? {
            down::Item::Published(published) => (published.publish, Ok(published)),
            down::Item::Failed(Failed { of: Some(failed::Of::Publish(publish)), code, .. }) => (*publish, Err(*code)),
            _ => return None,
        };
        let (sent, span) = self.under_way.remove(&publish)?;
        if let Some(mut span) = span {
            match outcome {
                Ok(Published { offset, duplicate, .. }) => {
                    span.set("carillon.offset", *offset);
                    span.set("carillon.duplicate", u64::from(*duplicate));
                }
                Err(code) => span.fail(format_args!("the owner refused it: code {code}")),
            }
        }
        Some(now.saturating_duration_since(sent))
    }

    /// Forgets what is older than any answer: an ephemeral message that nobody waits for is not said again when it is lost.
    pub(crate) fn forget_older(&mut self, than: Duration, now: Instant) {
        self.under_way.retain(|_, (sent, span)| {
            let is_young = now.saturating_duration_since(*sent) <= than;
            if let Some(span) = span.as_mut().filter(|_| !is_young) {
                span.fail("no answer");
            }
            is_young
        });
    }
}

impl FanOut {
    /// So many members were sent what the batch brought.
    pub(crate) fn end(self, deliveries: u64) {
        for mut span in self.0 {
            span.set("carillon.batch.deliveries", deliveries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answered_once() {
        let mut publishes = Publishes::default();
        let start = Instant::now();
        publishes.on_sent(1, start, None);
        publishes.on_sent(2, start, None);
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
        publishes.on_sent(1, start, None);
        publishes.forget_older(Duration::from_secs(1), start + Duration::from_secs(1));
        assert_eq!(publishes.under_way.len(), 1);
        publishes.forget_older(Duration::from_secs(1), start + Duration::from_secs(2));
        assert_eq!(publishes.under_way.len(), 0);
    }
}
