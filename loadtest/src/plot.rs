//! Lines over time, as SVG text.

use plotters::prelude::*;

/// One line.
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// Seconds, value.
    pub(crate) points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (960, 280);
const COLOURS: [RGBColor; 3] = [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44)];

/// Draws lines over seconds.
pub(crate) fn lines(title: &str, unit: &str, series: &[Series]) -> anyhow::Result<String> {
    let points = || series.iter().flat_map(|line| &line.points);
    let (end, top) = points().fold((1.0f64, 1.0f64), |(end, top), (second, value)| (end.max(*second), top.max(*value)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..end, 0.0..top * 1.05)?;
        chart.configure_mesh().x_desc("seconds").y_desc(unit).light_line_style(WHITE).draw()?;
        for (line, colour) in series.iter().zip(COLOURS) {
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), &colour))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        area.present()?;
    }
    Ok(svg)
}
