//! One hop of a traced publish. A span is told when it is dropped; whoever tells them (`export`) has a queue of a fixed length,
//! and what finds it full is counted and lost.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use tokio::sync::mpsc;
use tracing::Instrument as _;

use super::{Context, Figures, Parent, Reading};

/// Spans that wait to be sent: some seconds' worth at a thousand traced publishes a second, and below 10 MB.
const QUEUE: usize = 16_384;

/// What somebody did for a publish, in OpenTelemetry's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Answers a request.
    Server,
    /// Waits for an answer.
    Client,
    /// Sends something on.
    Producer,
    /// Takes what was sent.
    Consumer,
}

/// Begins spans, or none where nobody wants to hear of them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    /// Of 2^64 traces, so many are sampled.
    threshold: u64,
    queue: mpsc::Sender<Ended>,
    counts: Arc<SpanCounts>,
}

/// What became of spans and exports.
#[derive(Debug, Default)]
pub(super) struct SpanCounts {
    pub(super) sent: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) failed_exports: AtomicU64,
}

impl Figures for SpanCounts {
    fn read(&self, to: &mut Reading) {
        to.counter("carillon.spans.sent", "Spans that were sent to otel.endpoint.", self.sent.load(Relaxed));
        let help = "Spans that were lost: the queue was full, or nobody took them.";
        to.counter("carillon.spans.dropped", help, self.dropped.load(Relaxed));
        let help = "Messages to otel.endpoint that nobody took.";
        to.counter("carillon.exports.failed", help, self.failed_exports.load(Relaxed));
    }
}

/// A span under way.
pub struct Span {
    tracer: Arc<Inner>,
    ended: Option<Ended>,
}

/// A span as it is told.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) context: Context,
    pub(super) parent: Option<u64>,
    pub(super) name: &'static str,
    pub(super) kind: SpanKind,
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) error: Option<String>,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Whole(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl Tracer {
    /// One that samples this share of traces, and what it tells.
    pub(super) fn new(share: f64, counts: Arc<SpanCounts>) -> (Self, mpsc::Receiver<Ended>) {
        let (queue, ended) = mpsc::channel(QUEUE);
        // Rounds 1.0 to all of them: the cast saturates.
        let threshold = (share * u64::MAX as f64) as u64;
        (Self(Some(Arc::new(Inner { threshold, queue, counts }))), ended)
    }

    /// Whether anybody wants to hear of spans.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Goes on with a trace, or begins one if it is sampled.
    pub fn begin(&self, name: &'static str, kind: SpanKind, parent: Parent) -> Option<Span> {
        let tracer = self.0.as_ref()?;
        match parent {
            Parent::Sampled(parent) => Some(tracer.span(name, kind, parent.trace, Some(parent.span))),
            Parent::Unsampled => None,
            // By the random half of the id, as OpenTelemetry does.
            Parent::None => {
                let trace = random().max(1);
                let is_sampled = tracer.threshold == u64::MAX || (trace as u64) < tracer.threshold;
                is_sampled.then(|| tracer.span(name, kind, trace, None))
            }
        }
    }

    /// Goes on with what a field says, if that is a sampled trace.
    pub fn child(&self, name: &'static str, kind: SpanKind, traceparent: &str) -> Option<Span> {
        if traceparent.is_empty() {
            return None;
        }
        self.begin(name, kind, Parent::Sampled(Context::parse(traceparent)?))
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Tracer").field(&self.is_on()).finish()
    }
}

impl Inner {
    fn span(self: &Arc<Self>, name: &'static str, kind: SpanKind, trace: u128, parent: Option<u64>) -> Span {
        let context = Context { trace, span: (random() as u64).max(1) };
        let start = SystemTime::now();
        let ended = Ended { context, parent, name, kind, start, end: start, attributes: Vec::new(), error: None };
        Span { tracer: self.clone(), ended: Some(ended) }
    }
}

/// Every publish asks for it, so that it must cost nothing; ids keep no secret.
fn random() -> u128 {
    fastrand::u128(..)
}

tokio::task_local! {
    /// What this task works on.
    static CURRENT: (Tracer, Context);
}

/// The span that this task works for has a part: for what does not know who asks.
pub fn part(name: &'static str, kind: SpanKind) -> Option<Span> {
    CURRENT.try_with(|(tracer, context)| tracer.begin(name, kind, Parent::Sampled(*context))).ok().flatten()
}

/// Goes on with the trace of this task in another one.
pub async fn carried<F: Future>(current: Option<Current>, work: F) -> F::Output {
    match current {
        Some(Current(tracer, context)) => within(tracer, context, work).await,
        None => work.await,
    }
}

/// The trace of a task.
pub struct Current(Tracer, Context);

impl Current {
    /// Of this one.
    pub fn here() -> Option<Self> {
        CURRENT.try_with(|(tracer, context)| Self(tracer.clone(), *context)).ok()
    }
}

async fn within<F: Future>(tracer: Tracer, context: Context, work: F) -> F::Output {
    let logged = logged(context);
    CURRENT.scope((tracer, context), work.instrument(logged)).await
}

/// What is logged within it has the ids of the trace.
fn logged(context: Context) -> tracing::Span {
    let (trace_id, span_id) = (format!("{:032x}", context.trace), format!("{:016x}", context.span));
    tracing::error_span!("traced", trace_id, span_id)
}

impl Span {
    /// As those name it who go on with it.
    pub fn context(&self) -> Context {
        self.of().context
    }

    /// Says more about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if let Some(ended) = &mut self.ended {
            ended.attributes.push((key, value));
        }
    }

    /// It did not work.
    pub fn fail(&mut self, why: impl fmt::Display) {
        if let Some(ended) = &mut self.ended {
            ended.error = Some(why.to_string());
        }
    }

    /// A part of it.
    pub fn part(&self, name: &'static str, kind: SpanKind) -> Self {
        let Context { trace, span } = self.context();
        self.tracer.span(name, kind, trace, Some(span))
    }

    /// Works for it: [`part`] finds it, and so does the log.
    pub async fn within<F: Future>(&self, work: F) -> F::Output {
        within(Tracer(Some(self.tracer.clone())), self.context(), work).await
    }

    fn of(&self) -> &Ended {
        self.ended.as_ref().expect("taken by drop only")
    }
}

/// As [`Span::within`], where there may be none.
pub async fn within_some<F: Future>(span: Option<&Span>, work: F) -> F::Output {
    match span {
        Some(span) => span.within(work).await,
        None => work.await,
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(mut ended) = self.ended.take() else { return };
        ended.end = SystemTime::now();
        let took = ended.end.duration_since(ended.start).unwrap_or_default();
        logged(ended.context).in_scope(|| match &ended.error {
            Some(error) => tracing::info!(hop = ended.name, ?took, error, "a traced hop failed"),
            None => tracing::debug!(hop = ended.name, ?took, "a traced hop"),
        });
        if self.tracer.queue.try_send(ended).is_err() {
            self.tracer.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(share: f64) -> (Tracer, mpsc::Receiver<Ended>) {
        Tracer::new(share, Arc::default())
    }

    #[tokio::test]
    async fn parts_have_their_parent() {
        let (tracer, mut told) = tracer(0.0);
        let parent = Context { trace: 7, span: 8 };
        let span = tracer.begin("whole", SpanKind::Server, Parent::Sampled(parent)).unwrap();
        let whole = span.context();
        span.within(async { assert!(part("part", SpanKind::Client).is_some()) }).await;
        drop(span);
        let (first, second) = (told.recv().await.unwrap(), told.recv().await.unwrap());
        assert_eq!((first.name, first.parent, first.context.trace), ("part", Some(whole.span), 7));
        assert_eq!((second.name, second.parent, second.context), ("whole", Some(8), whole));
        assert!(part("none", SpanKind::Client).is_none());
    }

    #[test]
    fn share_is_kept() {
        let sampled = |share: f64| {
            let (tracer, _told) = tracer(share);
            (0..2000).filter(|_| tracer.begin("x", SpanKind::Server, Parent::None).is_some()).count()
        };
        assert_eq!((sampled(0.0), sampled(1.0)), (0, 2000));
        // Six standard deviations of the binomial distribution on either side.
        assert!((866..=1134).contains(&sampled(0.5)));
    }

    #[test]
    fn parent_decides() {
        let (tracer, _told) = tracer(1.0);
        assert!(tracer.begin("x", SpanKind::Server, Parent::Unsampled).is_none());
        assert!(tracer.child("x", SpanKind::Server, "").is_none());
        assert!(Tracer::default().begin("x", SpanKind::Server, Parent::None).is_none());
    }

    #[test]
    fn full_queue_drops_and_counts() {
        let counts = Arc::new(SpanCounts::default());
        let (tracer, _told) = Tracer::new(1.0, counts.clone());
        for _ in 0..QUEUE + 5 {
            drop(tracer.begin("x", SpanKind::Server, Parent::None));
        }
        assert_eq!(counts.dropped.load(Relaxed), 5);
    }
}
