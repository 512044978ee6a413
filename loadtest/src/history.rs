//! The newest messages of some rooms out of many: fills the rooms, so that messages of each lie between those of others, and
//! reads. To read cold, fill with one run, start the server again, and read with another under the same `--prefix`.

use std::time::Instant;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::{
    args::Common,
    fleet::Task,
    process::Usage,
    publisher,
    report::Report,
    scenario::Stage,
    socket::{Heard, Socket},
    tally::Tally,
};

pub(crate) struct Fill {
    pub(crate) rooms: usize,
    pub(crate) messages: usize,
    pub(crate) read: usize,
    pub(crate) limit: usize,
    pub(crate) filled: bool,
    pub(crate) fill_only: bool,
}

pub(crate) fn run(common: &Common, fill: &Fill) -> anyhow::Result<Report> {
    ensure!(fill.read <= fill.rooms, "--read: at most as many as there are --rooms");
    ensure!((1..=1000).contains(&fill.limit), "--limit: 1 to 1000");
    ensure!(fill.messages > 0, "--messages: 1 or more");
    ensure!(!fill.filled || common.prefix.is_some(), "--filled needs the --prefix of the run that filled the rooms");
    let mut stage = Stage::new(common, fill.rooms, false, false)?;
    let (before, started) = (stage.usage(), Instant::now());
    let mut tally = match fill.filled {
        true => Tally::default(),
        false => fill_rooms(&mut stage, fill),
    };
    let filled_s = started.elapsed().as_secs_f64();
    if !fill.fill_only {
        read_rooms(&stage, fill, &mut tally)?;
    }
    let usage: Usage = stage.usage().since(before);
    let name = format!("history: the last {} messages of {} rooms out of {}", fill.limit, fill.read, fill.rooms);
    Ok(stage.report(&name, tally, filled_s.max(0.001), usage))
}

/// Rounds of all rooms, one message each, with a round of those that will be read now and then in between.
fn fill_rooms(stage: &mut Stage, fill: &Fill) -> Tally {
    let chosen: Vec<u32> = chosen(fill).collect();
    let count = fill.rooms * fill.messages;
    let between = count.div_ceil(fill.limit).max(1);
    let mut rooms = Vec::with_capacity(count + chosen.len() * (fill.limit + 1));
    for (number, room) in (0..fill.messages).flat_map(|_| 0..fill.rooms as u32).enumerate() {
        if number % between == 0 {
            rooms.extend(&chosen);
        }
        rooms.push(room);
    }
    let lacking = (fill.limit + 1).saturating_sub(count.div_ceil(between));
    for _ in 0..lacking {
        rooms.extend(&chosen);
    }
    let plan = publisher::Plan {
        number: 0,
        turn: 0,
        count: rooms.len() as u64,
        rooms,
        phase_ns: 0,
        period_ns: 0,
        in_flight: 512,
        lasts: None,
        comes_back: false,
        pauses: None,
    };
    let fleet = stage.start(vec![Task::Publisher(plan)]);
    stage.shared.ready.cancel();
    stage.said(&fleet);
    stage.settle(fleet)
}

/// The rooms to read, spread over all.
fn chosen(fill: &Fill) -> impl Iterator<Item = u32> {
    (0..fill.read).map(|number| (number * fill.rooms / fill.read) as u32)
}

fn read_rooms(stage: &Stage, fill: &Fill, tally: &mut Tally) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let shared = &stage.shared;
        let token = shared.signer.token("reader").into();
        let target = shared.targets.first().context("--url is empty")?;
        let mut socket = Socket::open(target, &token, "reader", None).await?;
        for room in chosen(fill) {
            let asked = Instant::now();
            let name = shared.room_name(room);
            socket.queue(format!(r#"{{"type":"history","room":"{name}","ref":{room},"limit":{}}}"#, fill.limit).as_bytes());
            socket.flush().await?;
            let answer = answer(&mut socket, room).await?;
            tally.history_us.saturating_record(asked.elapsed().as_micros() as u64);
            let offsets: Vec<u64> = match answer["messages"].as_array() {
                Some(messages) => messages.iter().filter_map(|message| message["offset"].as_u64()).collect(),
                None => bail!("history of {name} was refused: {answer}"),
            };
            let follow = offsets.windows(2).all(|pair| pair[1] == pair[0] + 1);
            if offsets.len() != fill.limit || !follow {
                tally.fault(&shared.live, || format!("the last {} of {name} came as {offsets:?}", fill.limit));
            }
        }
        Ok(())
    })
}

async fn answer(socket: &mut Socket, room: u32) -> anyhow::Result<Value> {
    loop {
        let mut found = None;
        let heard = socket.read(|frame| {
            if let Ok(frame) = serde_json::from_slice::<Value>(frame)
                && frame["ref"].as_u64() == Some(u64::from(room))
            {
                found = Some(frame);
            }
        });
        match (heard.await, found) {
            (_, Some(found)) => return Ok(found),
            (Heard::Something, None) => {}
            (other, None) => bail!("the server ended the connection: {other:?}"),
        }
    }
}
