//! Minimal SVG line charts for the plots in the documentation.

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 56.0;
const TICKS: usize = 5;
const COLOURS: [&str; 5] = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed"];

/// One line.
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart with the series drawn over common axes.
pub(crate) struct Chart<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    pub(crate) series: Vec<Series<'a>>,
    /// Draws y = x and fixes both axes to 0..1.
    pub(crate) diagonal: bool,
}

struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    /// The range of the values with a small margin.
    fn over(values: impl Iterator<Item = f64>) -> Axis {
        let (low, high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if !(low.is_finite() && high.is_finite()) {
            return Axis { low: 0.0, high: 1.0 };
        }
        let margin = ((high - low) * 0.08).max(high.abs() * 0.01).max(1e-6);
        Axis { low: low - margin, high: high + margin }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        (0..=TICKS).map(|tick| self.low + (self.high - self.low) * tick as f64 / TICKS as f64)
    }
}

impl Chart<'_> {
    /// Renders the chart.
    pub(crate) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (across, up) = if self.diagonal {
            (Axis { low: 0.0, high: 1.0 }, Axis { low: 0.0, high: 1.0 })
        } else {
            (Axis::over(points().map(|p| p.0)), Axis::over(points().map(|p| p.1)))
        };
        let x = |value: f64| LEFT + across.share(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
            escape(self.title)
        );
        svg += &grid(&across, &up, x, y);
        if self.diagonal {
            svg += &format!(
                "<path d=\"M{:.1} {:.1} L{:.1} {:.1}\" stroke=\"#9ca3af\" stroke-dasharray=\"4 4\"/>\n",
                x(0.0),
                y(0.0),
                x(1.0),
                y(1.0)
            );
        }
        for (at, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let line: Vec<String> =
                series.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            svg += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                line.join(" ")
            );
            for point in &series.points {
                svg += &format!(
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n",
                    x(point.0),
                    y(point.1)
                );
            }
            let text = TOP + 16.0 + 18.0 * at as f64;
            svg += &format!(
                "<text x=\"{}\" y=\"{text}\" fill=\"{colour}\">{}</text>\n",
                LEFT + 12.0,
                escape(series.name)
            );
        }
        svg += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - 14.0,
            escape(self.x)
        );
        let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
        svg += &format!(
            "<text x=\"16\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {middle})\">{}</text>\n</svg>\n",
            escape(self.y)
        );
        svg
    }
}

/// Grid lines and tick labels of both axes.
fn grid(across: &Axis, up: &Axis, x: impl Fn(f64) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut svg = String::new();
    for tick in across.ticks() {
        let (at, base) = (x(tick), HEIGHT - BOTTOM);
        svg += &format!("<path d=\"M{at:.1} {TOP} V{base}\" stroke=\"#e5e7eb\"/>\n");
        svg +=
            &format!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick:.2}</text>\n", base + 18.0);
    }
    for tick in up.ticks() {
        let at = y(tick);
        svg += &format!("<path d=\"M{LEFT} {at:.1} H{}\" stroke=\"#e5e7eb\"/>\n", WIDTH - RIGHT);
        svg += &format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.2}</text>\n",
            LEFT - 8.0,
            at + 4.0
        );
    }
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_inside_the_axes_and_labels_are_escaped() {
        let series = vec![Series { name: "a<b", points: vec![(0.5, 1.0), (0.9, 3.0)] }];
        let chart = Chart { title: "t & u", x: "x", y: "y", series, diagonal: false };
        let svg = chart.svg();
        assert!(svg.contains("t &amp; u") && svg.contains("a&lt;b"));
        let circles: Vec<f64> = svg
            .lines()
            .filter_map(|line| line.strip_prefix("<circle cx=\"")?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(circles.len(), 2);
        assert!(circles.iter().all(|x| (LEFT..WIDTH - RIGHT).contains(x)), "{circles:?}");
    }

    #[test]
    fn an_empty_chart_renders() {
        let chart = Chart { title: "t", x: "x", y: "y", series: Vec::new(), diagonal: true };
        assert!(chart.svg().ends_with("</svg>\n"));
    }
}
