//! The owner's hops of traced publishes. The rules carry a publish's trace context and know nothing of it; here it is put in
//! the place of the one that came, so that whatever follows is told as a part of this hop:
//!
//! ```text
//!   publish ─▶ order ─┬▶ append
//!                     ╰▶ deliver ─▶ (a gateway's fan out)
//! ```

use std::{collections::HashMap, time::Duration};

use carillon_platform::telemetry::{Context, Span, SpanKind, Tracer};
use carillon_proto::{
    ids::{GatewayId, PartitionId},
    link::{DownBatch, UpBatch, down, up},
};
use tokio::time::Instant;

/// Publishes that may be in the works at once with a trace; more are not traced.
const AT_ONCE: usize = 1024;
/// An order that has led to no append by then was a repeat, or was refused.
const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Hops {
    tracer: Tracer,
    partition: PartitionId,
    /// By their own context.
    orders: HashMap<Context, (Span, Instant)>,
    /// Orders whose messages go out with what is carried out next.
    leaving: Vec<Span>,
}

impl Hops {
    pub(crate) fn new(tracer: Tracer, partition: PartitionId) -> Self {
        Self { tracer, partition, orders: HashMap::new(), leaving: Vec::new() }
    }

    /// A batch has come, and the rules get it next.
    pub(crate) fn on_batch(&mut self, batch: &mut UpBatch) {
        if !self.tracer.is_on() {
            return;
        }
        for item in &mut batch.items {
            let Some(up::Item::Publish(publish)) = &mut item.item else { continue };
            if publish.traceparent.is_empty() || self.orders.len() >= AT_ONCE {
                continue;
            }
            let Some(mut span) = self.tracer.child("order", SpanKind::Consumer, &publish.traceparent) else { continue };
            span.set("messaging.system", "carillon");
            span.set("messaging.operation.type", "process");
            span.set("messaging.destination.name", publish.room.as_str());
            span.set("messaging.destination.partition.id", self.partition.to_string().as_str());
            publish.traceparent = span.context().to_string();
            if publish.ephemeral {
                self.leaving.push(span);
            } else {
                self.orders.insert(span.context(), (span, Instant::now()));
            }
        }
    }

    /// The rules want this appended.
    pub(crate) fn on_append(&mut self, traceparent: &str, offset: u64) -> Option<Append> {
        if traceparent.is_empty() {
            return None;
        }
        let context = Context::parse(traceparent)?;
        let (mut order, _) = self.orders.remove(&context)?;
        order.set("carillon.offset", offset);
        let append = order.part("append", SpanKind::Client);
        Some(Append { order, append })
    }

    /// The log acked it: its messages leave next.
    pub(crate) fn on_appended(&mut self, append: Append) {
        drop(append.append);
        self.leaving.push(append.order);
    }

    /// A batch leaves for a gateway.
    pub(crate) fn on_send(&self, gateway: GatewayId, batch: &mut DownBatch) {
        if !self.tracer.is_on() {
            return;
        }
        for item in &mut batch.items {
            let Some(down::Item::Message(message)) = &mut item.item else { continue };
            let Some(mut span) = self.tracer.child("deliver", SpanKind::Producer, &message.traceparent) else { continue };
            span.set("messaging.system", "carillon");
            span.set("messaging.operation.type", "send");
            span.set("carillon.gateway", gateway.to_string().as_str());
            message.traceparent = span.context().to_string();
        }
    }

    /// All that was ready has left.
    pub(crate) fn on_carried_out(&mut self) {
        self.leaving.clear();
    }

    /// Time passed.
    pub(crate) fn on_tick(&mut self) {
        if !self.orders.is_empty() {
            self.orders.retain(|_, (_, came)| came.elapsed() < PATIENCE);
        }
    }
}

/// An append under way.
pub(crate) struct Append {
    order: Span,
    append: Span,
}
