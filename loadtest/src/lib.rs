//! Load on a running server, with the checks built in: every figure comes from a run in which members looked at order and
//! count, and a run that lost, doubled or reordered anything fails. Sends at intended times, whatever the server does, so that
//! a stall shows in the latencies of all that should have been sent meanwhile. Knows the wire, and nothing of the server.
//!
//! ```text
//!   scenario ─▶ fleet (threads) ─▶ member, publisher ─▶ socket
//!                                    ╰▶ check, tally ─▶ report
//! ```

pub mod args;
mod book;
mod check;
mod fleet;
mod history;
mod member;
mod payload;
mod plot;
mod process;
mod publisher;
mod report;
mod scenario;
mod socket;
mod tally;
mod target;
mod token;
mod unanswered;
mod wire;

pub use args::Args;
pub use report::Report;

/// Runs a scenario to its end. The report says whether the server kept its promises.
///
/// # Errors
/// If the server can't be reached at all, a setting makes no sense, or a report can't be written.
pub fn run(args: &Args) -> anyhow::Result<Report> {
    let report = scenario::run(args)?;
    if let Some(path) = &args.common.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(path) = &args.common.html {
        std::fs::write(path, report.to_html()?)?;
    }
    Ok(report)
}
