//! Charts: a figure with a caption, a text alternative, and its numbers in a table that can be opened.

use maud::{Markup, PreEscaped, html};
use plotly::common::{DashType, ErrorData, ErrorType, Line, Marker, Mode, Orientation};
use plotly::layout::{Axis, AxisType, BarMode, Legend};
use plotly::{Bar, Layout, Plot, Scatter, Trace};

use super::page::{Cell, table};

/// The first colour. The colours can be distinguished by most people, on white and on black.
pub const BLUE: &str = "#3f83c9";
/// The second colour.
pub const ORANGE: &str = "#d9772b";
/// The colour of series that serve only as a comparison.
pub const GREY: &str = "#8a8f98";

/// The height of a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Height {
    /// The height of most charts.
    Usual,
    /// The height of charts with many rows.
    Tall,
}

/// A chart with its texts and numbers.
pub struct Chart {
    /// The anchor of the chart, unique in its page.
    pub id: String,
    /// The caption above the chart.
    pub caption: String,
    /// The text alternative for readers who cannot see the chart.
    pub alternative: String,
    traces: Vec<Box<dyn Trace>>,
    layout: Layout,
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    height: Height,
}

impl Chart {
    /// Creates a chart with titles on its axes.
    pub fn new(id: &str, caption: &str, x: &str, y: &str) -> Self {
        let layout = Layout::new()
            .x_axis(Axis::new().title(x.to_owned()))
            .y_axis(Axis::new().title(y.to_owned()))
            .legend(Legend::new().orientation(Orientation::Horizontal).y(1.12))
            .show_legend(false);
        Self {
            id: id.to_owned(),
            caption: caption.to_owned(),
            alternative: caption.to_owned(),
            traces: Vec::new(),
            layout,
            head: Vec::new(),
            rows: Vec::new(),
            height: Height::Usual,
        }
    }

    /// Sets the text alternative.
    pub fn says(mut self, alternative: String) -> Self {
        self.alternative = alternative;
        self
    }

    /// Adds a table with the numbers of the chart.
    pub fn numbers(mut self, head: &[&'static str], rows: Vec<Vec<Cell>>) -> Self {
        (self.head, self.rows) = (head.to_vec(), rows);
        self
    }

    /// Makes the chart taller.
    pub fn tall(mut self) -> Self {
        self.height = Height::Tall;
        self
    }

    /// Shows a legend with the names of the series above the chart.
    pub fn legend(mut self) -> Self {
        self.layout = self.layout.show_legend(true);
        self
    }

    /// Sets the ranges of the axes.
    pub fn within(mut self, x: Option<[f64; 2]>, y: Option<[f64; 2]>) -> Self {
        let axis = |title: &str, range: Option<[f64; 2]>| {
            let axis = Axis::new().title(title.to_owned());
            match range {
                Some(range) => axis.range(range.to_vec()),
                None => axis,
            }
        };
        let (x_title, y_title) = self.titles();
        self.layout = self.layout.x_axis(axis(&x_title, x)).y_axis(axis(&y_title, y));
        self
    }

    /// Treats the horizontal axis as names, even if they look like numbers.
    pub fn categories(mut self) -> Self {
        let (x_title, _) = self.titles();
        self.layout = self.layout.x_axis(Axis::new().title(x_title).type_(AxisType::Category));
        self
    }

    fn titles(&self) -> (String, String) {
        let layout = serde_json::to_value(&self.layout).unwrap_or_default();
        let title = |axis: &str| {
            let text = &layout[axis]["title"]["text"];
            text.as_str().unwrap_or_default().to_owned()
        };
        (title("xaxis"), title("yaxis"))
    }

    /// Stacks the bars on top of each other.
    pub fn stacked(mut self) -> Self {
        self.layout = self.layout.bar_mode(BarMode::Stack);
        self
    }

    /// Adds a trace of any kind.
    pub fn with(mut self, trace: Box<dyn Trace>) -> Self {
        self.traces.push(trace);
        self
    }

    /// Adds a line.
    pub fn line(self, name: &str, colour: &'static str, points: &[[f64; 2]]) -> Self {
        let (x, y): (Vec<f64>, Vec<f64>) = points.iter().map(|point| (point[0], point[1])).unzip();
        let line = Line::new().color(colour).width(2.0);
        self.with(Scatter::new(x, y).name(name).mode(Mode::Lines).line(line))
    }

    /// Adds a dashed line as a comparison.
    pub fn reference(self, name: &str, points: &[[f64; 2]]) -> Self {
        let (x, y): (Vec<f64>, Vec<f64>) = points.iter().map(|point| (point[0], point[1])).unzip();
        let line = Line::new().color(GREY).dash(DashType::Dash).width(1.5);
        self.with(Scatter::new(x, y).name(name).mode(Mode::Lines).line(line))
    }

    /// Adds a line with points at categories or dates.
    pub fn series(self, name: &str, colour: &'static str, x: Vec<String>, y: Vec<f64>) -> Self {
        let line = Line::new().color(colour).width(2.0);
        // Around a single date, an axis of dates would have ticks at microseconds.
        let chart = if x.len() < 2 { self.categories() } else { self };
        let points = Scatter::new(x, y).name(name).mode(Mode::LinesMarkers);
        chart.with(points.line(line).marker(Marker::new().color(colour).size(7)))
    }

    /// Adds vertical bars.
    pub fn bars(self, name: &str, colour: &'static str, x: Vec<String>, y: Vec<f64>) -> Self {
        self.with(Bar::new(x, y).name(name).marker(Marker::new().color(colour)))
    }

    /// Adds horizontal bars, with the first on top.
    pub fn lying(self, name: &str, colour: &'static str, labels: Vec<String>, x: Vec<f64>) -> Self {
        let (labels, x) = (reversed(labels), reversed(x));
        let bars = Bar::new(x, labels).name(name).orientation(Orientation::Horizontal);
        self.with(bars.marker(Marker::new().color(colour)))
    }

    /// Adds points with intervals, with the first on top.
    pub fn dots(
        self,
        name: &str,
        colour: &'static str,
        labels: Vec<String>,
        points: &[(f64, f64, f64)],
    ) -> Self {
        let points = reversed(points.to_vec());
        let more: Vec<f64> = points.iter().map(|(value, _, high)| high - value).collect();
        let less: Vec<f64> = points.iter().map(|(value, low, _)| value - low).collect();
        let error = ErrorData::new(ErrorType::Data).array(more).array_minus(less).symmetric(false);
        let x: Vec<f64> = points.iter().map(|(value, ..)| *value).collect();
        let dots = Scatter::new(x, reversed(labels)).name(name).mode(Mode::Markers);
        self.with(dots.error_x(error).marker(Marker::new().color(colour).size(8)))
    }

    /// Renders the figure.
    pub fn render(self) -> Markup {
        let mut plot = Plot::new();
        plot.set_layout(self.layout);
        plot.add_traces(self.traces);
        // The JSON is inside a script element, which would end at the first closing tag in it.
        let json = plot.to_json().replace("</", "<\\/");
        let class = if self.height == Height::Tall { "chart tall" } else { "chart" };
        html! {
            figure {
                figcaption { (self.caption) }
                div class=(class) id=(self.id) role="img" aria-label=(self.alternative) {}
                script type="application/json" id={ (self.id) "-data" } { (PreEscaped(json)) }
                @if !self.rows.is_empty() {
                    details {
                        summary { "Numbers of this chart" }
                        (table(&self.caption, &self.head, &self.rows))
                    }
                }
            }
        }
    }
}

fn reversed<T>(mut list: Vec<T>) -> Vec<T> {
    list.reverse();
    list
}
