//! A plot per row: a bar for each contender's median, a thin line over its range. Reads well on light and on dark pages.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 230.0;
const VALUE: f64 = 110.0;
const BAR: f64 = 22.0;
const STEP: f64 = 34.0;

/// What is drawn of one contender.
pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) median: f64,
    pub(crate) range: (f64, f64),
    /// As it is written behind the bar.
    pub(crate) said: String,
}

/// An SVG of its own. The first bar is Carillon's, and stands out.
pub(crate) fn bars(bars: &[Bar<'_>]) -> String {
    let longest = bars.iter().map(|bar| bar.range.1).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| LABEL + value.max(0.0) / longest * (WIDTH - LABEL - VALUE);
    let height = STEP * bars.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui,sans-serif\" \
         font-size=\"14\" fill=\"#808080\">\n"
    );
    for (index, bar) in bars.iter().enumerate() {
        let top = 8.0 + STEP * index as f64;
        let middle = top + BAR / 2.0;
        let colour = if bar.name.starts_with("carillon") { "#3b82f6" } else { "#9ca3af" };
        let (from, to) = (x(bar.range.0), x(bar.range.1));
        writeln!(
            svg,
            "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">{2}</text>\
             <rect x=\"{LABEL}\" y=\"{top}\" width=\"{3:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{colour}\"/>\
             <path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"#111827\" stroke-width=\"2\"/>\
             <text x=\"{4:.1}\" y=\"{1}\">{5}</text>",
            LABEL - 10.0,
            middle + 5.0,
            escape(bar.name),
            x(bar.median) - LABEL,
            to + 8.0,
            escape(&bar.said),
        )
        .expect("a String takes everything");
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_bar_fills_the_plot() {
        let bar = |name, median| Bar { name, median, range: (median, median), said: String::new() };
        let svg = bars(&[bar("carillon", 200.0), bar("a & b", 100.0)]);
        let width = WIDTH - LABEL - VALUE;
        assert!(svg.contains(&format!("width=\"{width:.1}\"")), "{svg}");
        assert!(svg.contains(&format!("width=\"{:.1}\"", width / 2.0)), "{svg}");
        assert!(svg.contains("a &amp; b"));
    }
}
