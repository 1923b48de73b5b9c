//! The frame of every report: one file without any link to a network, for light and dark displays, phones and
//! paper.
//!
//! The plotting library is a file of its own, because it is twenty times as large as a page. A page that is sent
//! away contains the library instead.

use std::sync::LazyLock;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use plotly::Plot;

use crate::report::findings::Findings;
use crate::time::Instant;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A section of a page, with an entry in the table of contents.
pub struct Section {
    /// The anchor of the section.
    pub id: &'static str,
    /// The heading of the section.
    pub title: &'static str,
    /// The content of the section.
    pub body: Markup,
}

/// The plotting library.
#[derive(Debug)]
pub struct Library {
    /// The path of its file in the folder of the store. It names the content, so that the file never changes.
    pub path: String,
    /// The JavaScript source.
    pub source: String,
}

/// The plotting library that charts need.
pub static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let sources = Plot::offline_js_sources();
    // The crate adds MathJax after the library, which no chart needs.
    let library = sources.split_once("</script>").map_or(sources.as_str(), |(library, _)| library);
    let source = library.split_once('>').map_or(library, |(_, source)| source).to_owned();
    let hash = xxhash_rust::xxh3::xxh3_64(source.as_bytes());
    Library { path: format!("assets/plotly-{hash:016x}.js"), source }
});

/// The place of the library in a page.
const PLACE: &str = "<script id=\"library\"></script>";

/// A rendered page, which refers to the plotting library or contains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page(String);

impl Page {
    /// The file at `path` in the folder of the store. It refers to the library by a relative path, and loads it after
    /// the text is shown.
    pub fn at(&self, path: &str) -> String {
        let up = "../".repeat(path.matches('/').count());
        let element = format!("<script id=\"library\" data-src=\"{up}{}\"></script>", LIBRARY.path);
        self.0.replacen(PLACE, &element, 1)
    }

    /// A file that contains the library.
    pub fn self_contained(&self) -> String {
        self.0.replacen(PLACE, &format!("<script id=\"library\">{}</script>", LIBRARY.source), 1)
    }
}

/// Makes a file of [`Page::at`] contain the library.
pub fn self_contained(file: &str, path: &str) -> String {
    let element = Page(PLACE.to_owned()).at(path);
    Page(file.replacen(&element, PLACE, 1)).self_contained()
}

/// Renders a whole page.
pub fn page(title: &str, subtitle: &str, sections: &[Section]) -> Page {
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                header {
                    h1 { (title) }
                    p.subtitle { (subtitle) }
                    nav aria-label="Sections" {
                        ul { @for section in sections {
                            li { a href={ "#" (section.id) } { (section.title) } }
                        } }
                    }
                }
                main id="content" {
                    @for section in sections {
                        section id=(section.id) aria-labelledby={ (section.id) "-title" } {
                            h2 id={ (section.id) "-title" } { (section.title) }
                            (section.body)
                        }
                    }
                }
                (PreEscaped(PLACE))
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    Page(markup.into_string())
}

/// Renders findings below a title. The colour is that of the worst one.
pub fn verdict(title: &str, findings: &Findings) -> Markup {
    html! {
        div class={ "verdict " (findings.level().name()) } {
            strong { (title) }
            ul { @for finding in &findings.0 {
                li class=(finding.level.name()) { (finding.text) }
            } }
        }
    }
}

/// Renders a table whose columns can be sorted. The style aligns cells with numbers to the right.
pub fn table(caption: &str, head: &[&str], rows: &[Vec<Cell>]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table.sortable {
                caption { (caption) }
                thead { tr { @for name in head {
                    th scope="col" { button type="button" { (name) } }
                } } }
                tbody { @for row in rows { tr { @for cell in row { (cell.markup()) } } } }
            }
        }
    }
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A cell with text.
    Text(String),
    /// A number by which the column is sorted, and the number as it is shown.
    Number(f64, String),
    /// A number, the number as it is shown, and a note below it.
    Noted(f64, String, String),
    /// A cell without a value.
    Empty,
}

impl Cell {
    /// Creates a cell with text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Creates a cell with a number that has this many decimals. The cell is empty if the number is not
    /// finite.
    pub fn number(value: f64, decimals: usize) -> Self {
        if value.is_finite() {
            Self::Number(value, format!("{value:.decimals$}"))
        } else {
            Self::Empty
        }
    }

    /// Creates a cell with a count, with separators between thousands.
    pub fn count(value: usize) -> Self {
        Self::Number(value as f64, crate::report::thousands(value as u64))
    }

    /// Creates a cell with a share as a percentage. The cell is empty if the share is not finite.
    pub fn percent(value: f64) -> Self {
        if value.is_finite() {
            Self::Number(value, format!("{:.1} %", 100.0 * value))
        } else {
            Self::Empty
        }
    }

    /// Creates a cell with a number and its interval.
    pub fn interval(value: f64, low: f64, high: f64) -> Self {
        Self::Noted(value, format!("{value:.4}"), format!("{low:.4} to {high:.4}"))
    }

    fn markup(&self) -> Markup {
        html! {
            @match self {
                Self::Text(text) => td { (text) },
                Self::Number(value, text) => td.number data-value=(value) { (text) },
                Self::Noted(value, text, note) => td.number data-value=(value) {
                    (text) span.note { (note) }
                },
                Self::Empty => td.number { "–" },
            }
        }
    }
}

/// Formats the calendar day of an instant in UTC.
pub fn day(at: Instant) -> String {
    at.to_string().chars().take(10).collect()
}

/// Renders a list of names with their values.
pub fn facts(pairs: &[(&str, String)]) -> Markup {
    html! { dl.facts { @for (name, value) in pairs { div { dt { (name) } dd { (value) } } } } }
}
