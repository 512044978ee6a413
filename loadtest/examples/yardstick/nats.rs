//! What NATS itself needs for what Carillon does with it, in the same run.

use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use clap::ValueEnum;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hdrhistogram::Histogram;

/// What is measured, and for how long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A NATS server with JetStream.
    #[arg(long, default_value = "nats://127.0.0.1:4222")]
    url: String,
    /// See [`What`].
    #[arg(value_enum)]
    what: What,
    /// Acks that are waited for at once, for `appends`.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// Bytes of a message.
    #[arg(long, default_value_t = 128)]
    payload: usize,
    /// How long, seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A request that is answered by another client, then an append that JetStream acks, one after the other.
    Round,
    /// Appends, many in flight.
    Appends,
}

/// Prints `{"count", "per_s", "p50_us", "p99_us"}`.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (count, seconds, us) = runtime.block_on(measure(args))?;
    let (p50, p99) = (us.value_at_quantile(0.5), us.value_at_quantile(0.99));
    println!(r#"{{"count":{count},"per_s":{:.1},"p50_us":{p50},"p99_us":{p99}}}"#, count as f64 / seconds);
    Ok(())
}

async fn measure(args: &Args) -> anyhow::Result<(u64, f64, Histogram<u64>)> {
    let client = async_nats::connect(&args.url).await?;
    let context = jetstream::new(client.clone());
    let name = format!("YARDSTICK-{}", std::process::id());
    let subject = format!("yardstick.{}", std::process::id());
    let config = stream::Config { name: name.clone(), subjects: vec![format!("{subject}.log")], ..stream::Config::default() };
    context.create_stream(config).await?;
    let answering = async_nats::connect(&args.url).await?;
    let mut asked = answering.subscribe(format!("{subject}.ask")).await?;
    answering.flush().await?;
    tokio::spawn(async move {
        while let Some(question) = asked.next().await {
            if let Some(reply) = question.reply {
                let _ = answering.publish(reply, question.payload).await;
            }
        }
    });
    let payload = bytes::Bytes::from(vec![b'x'; args.payload]);
    let mut us = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let (log, ask) = (format!("{subject}.log"), format!("{subject}.ask"));
    let (started, lasts) = (Instant::now(), Duration::from_secs_f64(args.seconds));
    // A subscription is known to the server only some time after it was made.
    while client.request(ask.clone(), payload.clone()).await.is_err() {
        if started.elapsed() > lasts {
            anyhow::bail!("nobody answers");
        }
    }
    let started = Instant::now();
    let append = || async {
        let began = Instant::now();
        context.publish(log.clone(), payload.clone()).await?.await?;
        anyhow::Ok(began.elapsed())
    };
    match args.what {
        What::Round => {
            while started.elapsed() < lasts {
                let began = Instant::now();
                client.request(ask.clone(), payload.clone()).await?;
                append().await?;
                us.saturating_record(began.elapsed().as_micros() as u64);
            }
        }
        What::Appends => {
            let mut under_way: FuturesUnordered<_> = (0..args.in_flight).map(|_| append()).collect();
            while let Some(done) = under_way.next().await {
                us.saturating_record(done?.as_micros() as u64);
                if started.elapsed() < lasts {
                    under_way.push(append());
                }
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    context.delete_stream(&name).await?;
    Ok((us.len(), seconds, us))
}
