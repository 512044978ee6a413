//! The page: the table, every contender's figures with their spread, a plot per row, and on what machine it was.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Measured;
use super::plot::{self, Bar};
use crate::steps::{command, output};

/// Writes `README.md` and a plot per row.
pub(crate) fn write(measured: &[Measured], rounds: usize, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let page = page(measured, rounds)?;
    fs::write(out.join("README.md"), page).with_context(|| format!("could not write into {}", out.display()))?;
    for (index, Measured { figures, .. }) in measured.iter().enumerate() {
        let bars: Vec<Bar<'_>> = figures
            .iter()
            .map(|(name, figures)| Bar { name, median: median(figures), range: range(figures), said: short(median(figures)) })
            .collect();
        fs::write(out.join(plot_name(index)), plot::bars(&bars))?;
    }
    Ok(())
}

fn plot_name(index: usize) -> String {
    format!("{:02}.svg", index + 1)
}

fn page(measured: &[Measured], rounds: usize) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Servers have one core, the load has another one; contenders take turns; medians of \
         all rounds, the range behind them. Payloads of 128 bytes; members check order and count, and a run that lost, doubled or \
         reordered anything has no figure. Absolute figures say little on another machine: compare ratios.\n\n",
    );
    writeln!(text, "{}; {rounds} rounds each.\n", machine()?)?;
    text += "| # | what | target | result | reached |\n|---|---|---|---|---|\n";
    for Measured { row, figures } in measured {
        let medians: Vec<f64> = figures.iter().map(|(_, figures)| median(figures)).collect();
        let reached = if (row.is_reached)(&medians) { "yes" } else { "**no**" };
        writeln!(text, "| {} | {} | {} | {} | {reached} |", row.number, row.what, row.target, short((row.result)(&medians)))?;
    }
    for (index, Measured { row, figures }) in measured.iter().enumerate() {
        writeln!(text, "\n## {}. {}\n\n| | median, {} | from | to |\n|---|---|---|---|", row.number, row.what, row.unit)?;
        for (name, figures) in figures {
            let (low, high) = range(figures);
            writeln!(text, "| {name} | {} | {} | {} |", short(median(figures)), short(low), short(high))?;
        }
        writeln!(text, "\n![{}]({})", row.what, plot_name(index))?;
    }
    Ok(text)
}

fn range(figures: &[f64]) -> (f64, f64) {
    figures.iter().fold((f64::MAX, f64::MIN), |(low, high), it| (low.min(*it), high.max(*it)))
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Four digits say all there is to say.
fn short(figure: f64) -> String {
    match figure.abs() {
        0.0..10.0 => format!("{figure:.2}"),
        10.0..1000.0 => format!("{figure:.1}"),
        _ => {
            let digits = format!("{figure:.0}");
            let mut grouped = String::new();
            for (index, digit) in digits.chars().enumerate() {
                if index > 0 && (digits.len() - index).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
    }
}

fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown").trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = output(&mut command("uname", &["-sr"]))?;
    let rust = output(&mut command("rustc", &["--version"]))?;
    let node = output(&mut command("node", &["--version"]))?;
    Ok(format!("{model}, {cores} cores; {}; {}; Node {}", kernel.trim(), rust.trim(), node.trim()))
}
