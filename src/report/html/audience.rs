//! The page for people who use segments: how large they are, who moves, what they are worth, who is in them, and how
//! to get them. It has no statistics.

use maud::{Markup, html};

use super::chart::{BLUE, Chart};
use super::page::{Cell, Page, Section, day, facts, page, table};
use crate::report::thousands;
use crate::scoring::audience::{Audience, SINCE_PURCHASE};
use crate::scoring::summary::{Flow, GONE, NEW, RunMetrics, SegmentSize};

/// The number of flows that are named for each segment and direction.
const FLOWS: usize = 3;

/// Renders the whole file.
pub fn render(project: &str, metrics: &RunMetrics) -> Page {
    let sections = [
        Section { id: "overview", title: "Overview", body: overview(metrics) },
        Section { id: "each", title: "Each segment", body: each(metrics) },
        Section { id: "words", title: "What the words mean", body: words(metrics) },
    ];
    let title = format!("Segments as of {}", day(metrics.as_of));
    let since = match metrics.previous {
        Some(previous) => format!("movements since {}", day(previous)),
        None => "the first time that segments are assigned".to_owned(),
    };
    page(&title, &format!("{project}: {since}"), &sections)
}

/// A segment with its size.
fn listed(metrics: &RunMetrics) -> impl Iterator<Item = (&SegmentSize, &Audience)> {
    let of = |name: &str| metrics.audiences.iter().find(|a| a.segment.as_deref() == Some(name));
    metrics.segments.iter().filter_map(move |size| Some((size, of(&size.segment)?)))
}

fn money(metrics: &RunMetrics, value: f64) -> String {
    let whole = thousands(value.abs().round() as u64);
    format!("{}{whole} {}", if value <= -0.5 { "-" } else { "" }, metrics.currency)
}

fn overview(metrics: &RunMetrics) -> Markup {
    let Some(everyone) = metrics.audiences.first() else {
        return html! { p { "This run is from before segments were described. Score again to describe them." } };
    };
    let worth = |audience: &Audience| audience.numbers.get("lifetime_value").copied();
    let total = worth(everyone).map(|worth| worth.total);
    let moved: usize =
        metrics.flows.iter().filter(|flow| flow.is_change()).map(|flow| flow.customers).sum();
    let mut cards = vec![("customers", thousands(everyone.customers as u64))];
    cards.extend(total.map(|total| ("what they are worth", money(metrics, total))));
    if metrics.previous.is_some() {
        cards.push(("moved to another primary segment", thousands(moved as u64)));
    }
    let mut head = vec!["segment", "customers", "of all"];
    if metrics.previous.is_some() {
        head.extend(["came", "left"]);
    }
    head.extend(["opted in", "consent unknown", "opted out"]);
    if total.is_some() {
        head.extend(["worth", "worth each"]);
    }
    let rows: Vec<Vec<Cell>> = listed(metrics)
        .map(|(size, audience)| {
            let count = audience.customers;
            let mut cells = vec![
                Cell::text(size.segment.clone()),
                Cell::count(count),
                Cell::percent(count as f64 / everyone.customers.max(1) as f64),
            ];
            if metrics.previous.is_some() {
                cells.extend([Cell::count(size.entered), Cell::count(size.left)]);
            }
            cells.extend(
                [audience.opted_in, audience.unknown(), audience.opted_out].map(Cell::count),
            );
            if total.is_some() {
                cells.extend(match worth(audience) {
                    Some(worth) => [worth.total, worth.mean()]
                        .map(|value| Cell::Number(value, money(metrics, value))),
                    None => [Cell::Empty, Cell::Empty],
                });
            }
            cells
        })
        .collect();
    let names = || listed(metrics).filter_map(|(size, a)| Some((size, worth(a)?)));
    let chart = Chart::new("worth", "What segments are worth", &metrics.currency, "")
        .lying(
            "worth",
            BLUE,
            names().map(|(size, _)| size.segment.clone()).collect(),
            names().map(|(_, worth)| worth.total).collect(),
        )
        .tall()
        .says("The worth of the customers of each segment; the table has the numbers.".into());
    html! {
        ul.cards { @for (name, value) in &cards { li { span.name { (name) } span.value { (value) } } } }
        (table("Segments, in the order of their rules; a customer may be in several", &head, &rows))
        @if names().count() > 1 { (chart.render()) }
    }
}

fn each(metrics: &RunMetrics) -> Markup {
    let Some(everyone) = metrics.audiences.first() else { return html! {} };
    html! { @for (size, audience) in listed(metrics) {
        h3 { (size.segment) }
        @if !audience.description.is_empty() { p { (audience.description) } }
        @if audience.customers == 0 { p.soft { "Nobody is in it." } } @else {
            (facts(&about(metrics, size, audience, everyone)))
        }
        p { code { "c360-ml segments export \"" (size.segment) "\" --out " (file_name(&size.segment)) ".csv" } }
    } }
}

/// A name for a file: the letters and digits of the segment's name.
fn file_name(segment: &str) -> String {
    let words = segment.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

fn about(
    metrics: &RunMetrics,
    size: &SegmentSize,
    audience: &Audience,
    everyone: &Audience,
) -> Vec<(&'static str, String)> {
    let count = audience.customers;
    let share = 100.0 * count as f64 / everyone.customers.max(1) as f64;
    let mut list = vec![("customers", format!("{}, {share:.1} % of all", thousands(count as u64)))];
    if metrics.previous.is_some() {
        list.push((
            "movements",
            format!(
                "{} came, {} left",
                thousands(size.entered as u64),
                thousands(size.left as u64)
            ),
        ));
        let come = flows(metrics, |flow| (&flow.to, &flow.from), size);
        list.extend(come.map(|text| ("new here, by where they were", text)));
        let gone = flows(metrics, |flow| (&flow.from, &flow.to), size);
        list.extend(gone.map(|text| ("no longer here, by where they went", text)));
    }
    let [opted_in, unknown, out] = [audience.opted_in, audience.unknown(), audience.opted_out]
        .map(|count| thousands(count as u64));
    let consent =
        format!("{opted_in} have opted in, {out} have opted out, of {unknown} it is not known");
    list.push(("consent", consent));
    let number = |audience: &Audience, name: &str| audience.numbers.get(name).copied();
    if let Some(worth) = number(audience, "lifetime_value") {
        let of_all = number(everyone, "lifetime_value").map_or(0.0, |all| all.total);
        let share = match of_all > 0.0 {
            true => format!(", {:.1} % of all worth", 100.0 * worth.total / of_all),
            false => String::new(),
        };
        let (total, mean) = (money(metrics, worth.total), money(metrics, worth.mean()));
        list.push(("worth", format!("{total}, {mean} each{share}")));
    }
    let averages = [
        ("orders so far, on average", "orders_count"),
        ("spent so far, on average", "total_revenue"),
        ("days since the last purchase, on average", SINCE_PURCHASE),
        ("engagement of 100, on average", "engagement_score"),
    ];
    let shown = |name: &str, value: f64| match name {
        "orders_count" => format!("{value:.1}"),
        "total_revenue" => money(metrics, value),
        _ => format!("{value:.0}"),
    };
    for (title, name) in averages {
        if let (Some(own), Some(all)) = (number(audience, name), number(everyone, name)) {
            let (own, all) = (shown(name, own.mean()), shown(name, all.mean()));
            list.push((title, format!("{own} (all customers: {all})")));
        }
    }
    for (title, name) in [
        ("most frequent country", "country"),
        ("most frequent channel", "preferred_channel"),
        ("most frequent tier", "loyalty_tier"),
    ] {
        if let Some(common) = audience.common.get(name) {
            let share = 100.0 * common.customers as f64 / common.known as f64;
            list.push((title, format!("{} ({share:.0} % of those with a value)", common.value)));
        }
    }
    list
}

/// The greatest flows of customers into or out of a primary segment. `ends` gives the end of a flow that must be this
/// segment, and the other end.
fn flows<'a>(
    metrics: &'a RunMetrics,
    ends: impl Fn(&'a Flow) -> (&'a String, &'a String),
    size: &SegmentSize,
) -> Option<String> {
    let other = |name: &str| match name {
        NEW => "new customers".to_owned(),
        GONE => "no longer customers".to_owned(),
        name => name.to_owned(),
    };
    let list: Vec<String> = metrics
        .flows
        .iter()
        .filter(|flow| flow.from != flow.to)
        .filter_map(|flow| {
            let (here, there) = ends(flow);
            let text = || format!("{} {}", other(there), thousands(flow.customers as u64));
            (*here == size.segment).then(text)
        })
        .take(FLOWS)
        .collect();
    (!list.is_empty()).then(|| list.join(", "))
}

fn words(metrics: &RunMetrics) -> Markup {
    html! { (facts(&[
        ("worth", format!("What a customer has brought so far, less refunds, and what is expected of them within the period that the lifetime value model looks ahead, in {}. It is an expectation, not a promise.", metrics.currency)),
        ("primary segment", "Each customer has exactly one: the first primary rule that holds. Customers may be in further segments.".to_owned()),
        ("consent", "An export leaves out those who have opted out, and keeps those whose consent is not known. With --consent email it keeps only those who have agreed to e-mail. Whether you may contact the others is for your law to say.".to_owned()),
        ("engagement", "0 to 100: how much, how often and on how many channels a customer is active.".to_owned()),
    ])) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_by_letters_and_digits() {
        assert_eq!(file_name("High value – at risk"), "high-value-at-risk");
        assert_eq!(file_name("Über 50 %"), "über-50");
    }
}
