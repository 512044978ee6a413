//! Questions to all owners or to all other gateways, and the answers that come in time. The bus may lose either, and who asks waits no
//! longer than for somebody who is slow.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use carillon_platform::bus::{Bus, Subscription};
use carillon_proto::survey::{self, Answer, Question, answer, question};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// How long is waited for the last answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers that may wait to be looked at: of more processes than any deployment has.
const ANSWERS: usize = 4096;
/// The pause before another try to subscribe.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// What this process has asked.
#[derive(Default)]
pub(super) struct Survey {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, mpsc::Sender<answer::Of>>>,
}

/// Nobody waits for the answers any more, whatever became of who asked.
struct Asked<'s>(&'s Survey, u64);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

impl Survey {
    /// Hands each answer to `take` until that says that it has all, or time is up.
    pub(super) async fn ask(&self, bus: &dyn Bus, id: &str, of: question::Of, mut take: impl FnMut(answer::Of) -> bool) {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answers, mut answered) = mpsc::channel(ANSWERS);
        self.waiting.lock().insert(number, answers);
        let _asked = Asked(self, number);
        let question = Question { version: survey::VERSION, gateway: id.to_owned(), number, of: Some(of) };
        bus.publish(survey::QUESTIONS, question.encode_to_vec().into());
        let all = async {
            while let Some(answer) = answered.recv().await {
                if take(answer) {
                    return;
                }
            }
        };
        let _ = timeout(PATIENCE, all).await;
    }

    /// Hears answers, for ever.
    pub(super) async fn hear(&self, bus: &dyn Bus, id: &str) {
        let mut heard = Heard::on(bus, survey::answers(id).expect("an id is letters and digits"));
        loop {
            let Ok(answer) = Answer::decode(heard.next().await) else { continue };
            let waiting = self.waiting.lock().get(&answer.number).cloned();
            // One that comes too late, or too often, is none.
            if let (Some(waiting), Some(of), survey::VERSION) = (waiting, answer.of, answer.version) {
                let _ = waiting.try_send(of);
            }
        }
    }
}

/// What others ask.
pub(super) struct Questions<'b> {
    heard: Heard<'b>,
    id: &'b str,
}

impl<'b> Questions<'b> {
    pub(super) fn new(bus: &'b dyn Bus, id: &'b str) -> Self {
        Self { heard: Heard::on(bus, survey::QUESTIONS.to_owned()), id }
    }

    /// The next one of somebody else.
    pub(super) async fn next(&mut self) -> (Question, question::Of) {
        loop {
            let Ok(mut question) = Question::decode(self.heard.next().await) else { continue };
            let of = question.of.take().filter(|_| question.version == survey::VERSION && question.gateway != self.id);
            if let Some(of) = of {
                return (question, of);
            }
        }
    }

    pub(super) fn answer(&self, question: &Question, of: answer::Of) {
        let Some(subject) = survey::answers(&question.gateway) else { return };
        let answer = Answer { version: survey::VERSION, number: question.number, of: Some(of) };
        self.heard.bus.publish(&subject, answer.encode_to_vec().into());
    }
}

/// A subject, subscribed to anew whenever that ends.
struct Heard<'b> {
    bus: &'b dyn Bus,
    subject: String,
    open: Option<Subscription>,
}

impl<'b> Heard<'b> {
    fn on(bus: &'b dyn Bus, subject: String) -> Self {
        Self { bus, subject, open: None }
    }

    async fn next(&mut self) -> Bytes {
        loop {
            if let Some(open) = &mut self.open {
                match open.next().await {
                    Some(said) => return said,
                    None => self.open = None,
                }
            }
            match self.bus.subscribe(&self.subject).await {
                Ok(open) => self.open = Some(open),
                Err(error) => {
                    tracing::debug!(%error, subject = self.subject, "can't hear this yet");
                    sleep(SUBSCRIBE_PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Instant};

    use carillon_platform::bus::InProcessBus;
    use carillon_proto::survey::{ConnectionsAsked, ConnectionsFound};

    use super::*;

    /// Answers come to who asked, a silent one costs the wait, and nothing is kept of what was asked.
    #[tokio::test]
    async fn answers_come_and_silence_ends() {
        let bus = Arc::new(InProcessBus::default());
        let survey = Arc::new(Survey::default());
        let (hearing, on) = (survey.clone(), bus.clone());
        tokio::spawn(async move { hearing.hear(&*on, "a").await });
        let on = bus.clone();
        tokio::spawn(async move {
            let mut questions = Questions::new(&*on, "b");
            loop {
                let (question, _) = questions.next().await;
                let found = ConnectionsFound { gateway: "b".into(), ..ConnectionsFound::default() };
                questions.answer(&question, answer::Of::Connections(found));
            }
        });
        let asked = || question::Of::Connections(ConnectionsAsked::default());
        let ask = async |wanted: usize| {
            let mut heard = Vec::new();
            let began = Instant::now();
            survey
                .ask(&*bus, "a", asked(), |answer| {
                    let answer::Of::Connections(found) = answer else { panic!("nobody asked for that") };
                    heard.push(found.gateway);
                    heard.len() == wanted
                })
                .await;
            (heard, began.elapsed())
        };
        // Until both listen.
        while ask(1).await.0.is_empty() {}
        let (heard, took) = ask(2).await;
        assert_eq!(heard, ["b"]);
        assert!(took >= PATIENCE, "it waits for who is missing: {took:?}");
        assert!(survey.waiting.lock().is_empty());
    }
}
