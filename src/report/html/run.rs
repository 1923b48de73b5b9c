//! The report of one scoring run, which shows the changes since the previous run.

use maud::{Markup, html};
use plotly::Sankey;
use plotly::sankey::{Link, Node};

use super::chart::{BLUE, Chart, ORANGE};
use super::page::{self, Cell, Page, Section, day, facts, page, table};
use crate::features::audit::AuditRecord;
use crate::features::drift::Verdict;
use crate::report::findings::Findings;
use crate::report::sentences::of_audit;
use crate::report::thousands;
use crate::scoring::summary::{ModelSummary, RunMetrics};
use crate::sources::contract::Status;

/// The colour of flows, on white and on black.
const LINK: &str = "rgba(130, 145, 160, 0.4)";
/// The greatest number of moved inputs shown for each model.
const SHOWN: usize = 15;

/// Renders the whole file.
pub fn render(project: &str, metrics: &RunMetrics, audit: Option<&AuditRecord>) -> Page {
    let section = |id, title, body| Section { id, title, body };
    let mut sections = vec![
        section("summary", "Summary", summary(metrics)),
        section("scores", "Scores", scores(metrics)),
        section("segments", "Segments", segments(metrics)),
        section("reasons", "Top reasons", reasons(metrics)),
        section("drift", "Drift of inputs", drift(metrics)),
        section("contract", "Contract and freshness", contract(metrics)),
    ];
    sections.extend(audit.map(|record| section("audit", "Audit", audited(record))));
    let title = format!("Scoring run {}", metrics.run);
    let against = match metrics.previous {
        Some(previous) => format!("as of {}, against {}", metrics.as_of, day(previous)),
        None => format!("as of {}, the first one", metrics.as_of),
    };
    page(&title, &format!("{project}: {against}"), &sections)
}

fn summary(metrics: &RunMetrics) -> Markup {
    let title = format!("{} customers scored", thousands(metrics.customers as u64));
    page::verdict(&title, &Findings::of_run(metrics))
}

fn scores(metrics: &RunMetrics) -> Markup {
    let head = [
        "score",
        "version",
        "by model",
        "lapsed",
        "none",
        "mean",
        "p10",
        "median",
        "p90",
        "mean before",
        "PSI",
    ];
    let rows: Vec<Vec<Cell>> = metrics
        .models
        .iter()
        .map(|model| {
            let mut cells =
                vec![Cell::text(model.model.clone()), Cell::text(model.version.clone())];
            cells.extend(model.basis.map(Cell::count));
            match model.scores {
                Some(s) => cells.extend([s.mean, s.p10, s.p50, s.p90].map(|x| Cell::number(x, 4))),
                None => cells.extend([Cell::Empty, Cell::Empty, Cell::Empty, Cell::Empty]),
            }
            cells.push(model.before.map_or(Cell::Empty, |before| Cell::number(before.mean, 4)));
            cells.push(model.moved.as_ref().map_or(Cell::Empty, |drift| {
                Cell::Noted(drift.psi, format!("{:.4}", drift.psi), drift.verdict.name().into())
            }));
            cells
        })
        .collect();
    html! {
        (table("Scores of this run", &head, &rows))
        @for model in &metrics.models { (bases(model)) }
        div.grid { @for model in metrics.models.iter().filter(|model| model.scores.is_some()) {
            (histogram(model).render())
        } }
    }
}

/// Explains the scores of a classifier that some customers have by another way than the model.
fn bases(model: &ModelSummary) -> Markup {
    let [by_model, lapsed, _] = model.ranges;
    let Some(lapsed) = lapsed else { return html! {} };
    let span = |[low, high]: [f64; 2]| format!("from {low:.2} to {high:.2}");
    let of_model = match by_model {
        Some(range) => format!(
            "The model gives {} customers a score {}.",
            thousands(model.basis[0] as u64),
            span(range)
        ),
        None => "The model gives no customer a score.".to_owned(),
    };
    html! { p {
        strong { (model.model) ": " } (of_model) " Another " (thousands(model.basis[1] as u64))
        " customers have lapsed: they are silent for longer than those that the model has learnt from. Their score, "
        (span(lapsed)) ", is the share that was observed among customers who had been silent for as long. "
        "Do not rank the two together: rules and percentiles use the first only, and the basis in the scores says which one a "
        "customer has (for churn also churn_basis in the profile)."
    } }
}

fn histogram(model: &ModelSummary) -> Chart {
    let from: Vec<f64> = model.from.clone();
    let points = |shares: &[f64]| -> Vec<[f64; 2]> {
        from.iter().zip(shares).map(|(from, share)| [*from, *share]).collect()
    };
    let mean = model.scores.map_or(f64::NAN, |scores| scores.mean);
    let chart = Chart::new(
        &format!("scores-{}", model.model),
        &format!("{}: share of customers by score", model.model),
        "score from",
        "share",
    )
    .legend()
    .says(format!("Distribution of {}, mean {mean:.4}, beside that of the last run.", model.model))
    .line("this run", BLUE, &points(&model.shares[0]));
    let rows = from.iter().enumerate().map(|(bar, from)| {
        let share = |shares: &[f64]| shares.get(bar).map_or(Cell::Empty, |s| Cell::percent(*s));
        vec![Cell::number(*from, 2), share(&model.shares[0]), share(&model.shares[1])]
    });
    let chart = chart.numbers(&["from", "this run", "last run"], rows.collect());
    match model.shares[1].is_empty() {
        true => chart,
        false => chart.reference("last run", &points(&model.shares[1])),
    }
}

fn segments(metrics: &RunMetrics) -> Markup {
    let head = [
        "segment",
        "members",
        "opted out",
        "entered",
        "left",
        "as primary",
        "as primary before",
        "change",
    ];
    let rows: Vec<Vec<Cell>> = metrics
        .segments
        .iter()
        .map(|size| {
            let change = size.primary as f64 - size.primary_before as f64;
            let since = |cell: Cell| if metrics.previous.is_some() { cell } else { Cell::Empty };
            let never = size.primary + size.primary_before == 0;
            let primary = |cell: Cell| if never { Cell::Empty } else { cell };
            vec![
                Cell::text(size.segment.clone()),
                Cell::count(size.members),
                Cell::count(size.opted_out),
                since(Cell::count(size.entered)),
                since(Cell::count(size.left)),
                primary(Cell::count(size.primary)),
                primary(since(Cell::count(size.primary_before))),
                primary(since(Cell::Number(change, format!("{change:+}")))),
            ]
        })
        .collect();
    let names = || metrics.segments.iter().filter(|size| size.primary > 0);
    let chart = Chart::new("segments-chart", "Primary segments", "customers", "")
        .lying(
            "customers",
            BLUE,
            names().map(|size| size.segment.clone()).collect(),
            names().map(|size| size.primary as f64).collect(),
        )
        .says("Customers by primary segment; the table has the numbers.".into());
    html! {
        (chart.render())
        (table("Segments", &head, &rows))
        p { "The page " a href="segments.html" { "segments.html" } " describes each segment for those who use them." }
        p.soft { "Whoever has opted out must not be contacted. They are scored and in segments like all others, unless [consent] in c360.toml says otherwise." }
        @if metrics.previous.is_some() { (flows(metrics).render()) }
        @if !metrics.overlaps.is_empty() { (overlaps(metrics)) }
    }
}

/// Renders every pair of segments that shares customers.
fn overlaps(metrics: &RunMetrics) -> Markup {
    let head = ["segment", "overlaps with", "in both", "of the one", "of the other"];
    let rows: Vec<Vec<Cell>> = metrics
        .overlaps
        .iter()
        .map(|overlap| {
            let share = |of: usize| Cell::percent(overlap.both as f64 / of.max(1) as f64);
            vec![
                Cell::text(overlap.segment.clone()),
                Cell::text(overlap.other.clone()),
                Cell::count(overlap.both),
                share(overlap.members),
                share(overlap.other_members),
            ]
        })
        .collect();
    html! {
        details {
            summary { "Segments that share customers" }
            (table("Overlaps of segments", &head, &rows))
        }
    }
}

/// Creates a Sankey diagram of the flows, from the previous segments on the left to the present ones on the
/// right.
fn flows(metrics: &RunMetrics) -> Chart {
    let mut left: Vec<&str> = metrics.flows.iter().map(|flow| flow.from.as_str()).collect();
    let mut right: Vec<&str> = metrics.flows.iter().map(|flow| flow.to.as_str()).collect();
    for side in [&mut left, &mut right] {
        side.sort_unstable();
        side.dedup();
    }
    let place = |side: &[&str], name: &str| side.iter().position(|n| *n == name).unwrap_or(0);
    let source = metrics.flows.iter().map(|flow| place(&left, &flow.from)).collect();
    let target = metrics.flows.iter().map(|flow| left.len() + place(&right, &flow.to)).collect();
    let value = metrics.flows.iter().map(|flow| flow.customers).collect();
    let labels: Vec<&str> = left.iter().chain(&right).copied().collect();
    let sankey = Sankey::new()
        .node(Node::new().label(labels).pad(14).thickness(14).color(BLUE))
        .link(Link::new().source(source).target(target).value(value).color(LINK));
    let rows = metrics.flows.iter().map(|flow| {
        vec![Cell::text(&*flow.from), Cell::text(&*flow.to), Cell::count(flow.customers)]
    });
    Chart::new("flows-chart", "Flows between primary segments since the last run", "", "")
        .tall()
        .with(sankey)
        .says("How many customers went from which primary segment to which; the numbers are in the table below it.".into())
        .numbers(&["from", "to", "customers"], rows.collect())
}

fn reasons(metrics: &RunMetrics) -> Markup {
    let known = || metrics.models.iter().filter(|model| !model.drift.is_empty());
    html! {
        p.soft { "How often a group of inputs is what moves a customer's score most, with its mean contribution to the logit there." }
        div.grid { @for model in known() {
            (Chart::new(&format!("reasons-{}", model.model), &format!("{}: first reasons", model.model), "customers", "")
                .lying(
                    "customers",
                    ORANGE,
                    model.reasons.iter().map(|(group, ..)| group.clone()).collect(),
                    model.reasons.iter().map(|(_, count, _)| *count as f64).collect(),
                )
                .says(format!(
                    "Most often first: {}.",
                    model.reasons.iter().take(3).map(|(group, ..)| group.as_str()).collect::<Vec<_>>().join(", ")
                ))
                .numbers(
                    &["group", "customers", "mean contribution"],
                    model.reasons.iter().map(|(group, count, mean)| {
                        vec![Cell::text(group.clone()), Cell::count(*count), Cell::number(*mean, 3)]
                    }).collect(),
                )
                .render())
        } }
    }
}

fn drift(metrics: &RunMetrics) -> Markup {
    let known = || metrics.models.iter().filter(|model| !model.drift.is_empty());
    html! {
        @for model in known() {
            @let moved = model.drift.iter().filter(|d| d.verdict != Verdict::Stable).count();
            p { (model.model) ": " (moved) " of " (model.drift.len())
                " inputs have moved by more than chance since training." }
            (table(
                &format!("{}: inputs that have moved most", model.model),
                &["input", "PSI", "threshold", "verdict"],
                &model.drift.iter().take(SHOWN).map(|row| vec![
                    Cell::text(row.column.clone()),
                    Cell::number(row.psi, 4),
                    Cell::number(row.threshold, 4),
                    Cell::text(row.verdict.name()),
                ]).collect::<Vec<_>>(),
            ))
        }
    }
}

fn audited(audit: &AuditRecord) -> Markup {
    let rows: Vec<Vec<Cell>> = audit
        .views
        .iter()
        .map(|view| {
            let counts = [view.values, view.unlike_reference, view.moved];
            let counts = counts.map(|count| Cell::count(count as usize));
            [vec![Cell::text(view.view.clone())], counts.to_vec()].concat()
        })
        .collect();
    let head = ["view", "values", "unlike the reference", "moved by future or late events"];
    html! {
        p {
            "At " (audit.audited_at) " the features of " (thousands(audit.customers))
            " customers were computed again in two other ways, and every live file was compared with its checksum."
        }
        ul { @for sentence in of_audit(audit) { li { (sentence) } } }
        (table("Values that were computed again", &head, &rows))
    }
}

fn contract(metrics: &RunMetrics) -> Markup {
    let events = &metrics.events;
    let count = |number: u64| thousands(number);
    let age = metrics.last_event.map(|at| metrics.as_of.days_since(at.0));
    let mut list = vec![
        ("events read", count(events.events)),
        ("events left out as duplicates", count(events.duplicates)),
        ("events of unknown customers", count(events.orphans)),
        ("latest event", metrics.last_event.map_or("none".into(), |at| at.to_string())),
        ("its age at the as-of", age.map_or("–".into(), |days| format!("{days:.1} days"))),
    ];
    let reasons: Vec<(String, String)> = events
        .rejected
        .iter()
        .map(|(reason, rows)| (format!("rows rejected: {reason}"), count(*rows)))
        .collect();
    list.extend(reasons.iter().map(|(reason, rows)| (reason.as_str(), rows.clone())));
    let ages: Vec<Vec<Cell>> = metrics
        .models
        .iter()
        .filter_map(|model| {
            let trained = model.trained?;
            Some(vec![
                Cell::text(model.model.clone()),
                Cell::text(model.version.clone()),
                Cell::number(metrics.as_of.days_since(trained.0), 0),
            ])
        })
        .collect();
    let mut checks: Vec<_> = metrics.checks.iter().collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.status));
    let rows = checks.iter().map(|check| {
        let status = match check.status {
            Status::Ok => "✓ kept",
            Status::Warning => "! look at it",
            Status::Violation => "✗ violated",
        };
        let found = check.found.parse().map_or_else(|_| check.found.clone(), thousands);
        [status, &check.source, &check.check, &found, &check.hint].map(Cell::text).to_vec()
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    let kept = rows.split_off(checks.partition_point(|check| check.status != Status::Ok));
    let head = ["result", "source", "check", "found", "hint"];
    html! {
        (facts(&list))
        @if !checks.is_empty() {
            p { (checks.len()) " checks of the contract, " (rows.len()) " of them worth a look." }
            @if !rows.is_empty() { (table("Worth a look in profile and events", &head, &rows)) }
            details {
                summary { "Checks that passed" }
                (table("Kept by profile and events", &head, &kept))
            }
        }
        (table("Age of the versions in use", &["model", "version", "days since its as-of"], &ages))
    }
}
