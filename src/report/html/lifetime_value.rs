//! The report of one version of a lifetime value model.

use maud::{Markup, html};

use super::card;
use super::chart::{BLUE, Chart, GREY};
use super::page::{self, Cell, Page, Section, day, facts, page, table};
use crate::artifact::Artifact;
use crate::artifact::LifetimeValueArtifact;
use crate::report::findings::Findings;
use crate::report::thousands;
use crate::training::lifetime_value::holdout::{Class, Errors, Holdout};
use crate::training::lifetime_value::{Lesson, LifetimeValueMetrics, Trial};

/// Renders the whole file.
pub fn render(
    project: &str,
    artifact: &Artifact,
    model: &LifetimeValueArtifact,
    metrics: &LifetimeValueMetrics,
) -> Page {
    let section = |id, title, body| Section { id, title, body };
    let mut sections = vec![section("verdict", "Verdict", verdict(metrics))];
    if let Some(held) = &metrics.holdout {
        sections.push(section("holdout", "Against what happened", holdout(held)));
    }
    sections.push(section("fits", "How it was fitted", fits(metrics)));
    sections.push(section("card", "Model card", model_card(artifact, model, metrics)));
    let title = format!("{} {}", artifact.name, artifact.version);
    page(&title, &format!("{project}: {}", model.spec.description), &sections)
}

fn verdict(metrics: &LifetimeValueMetrics) -> Markup {
    let title = format!("{} over {} buyers", metrics.method(), thousands(metrics.customers as u64));
    html! {
        (page::verdict(&title, &Findings::of_lifetime_value(metrics)))
        @if let Some(holdout) = &metrics.holdout { (cards(holdout)) }
    }
}

fn cards(holdout: &Holdout) -> Markup {
    let model = &holdout.model;
    let other = |value: fn(&Errors) -> String| {
        holdout.baselines.iter().map(|b| format!("{}: {}", b.name, value(b))).collect::<Vec<_>>()
    };
    let percent = |error: f64| format!("{:+.1} %", 100.0 * error);
    let cards = [
        (
            "error of all spend",
            percent(model.spend_error),
            other(|b| format!("{:+.1} %", 100.0 * b.spend_error)),
        ),
        (
            "mean absolute error of a customer",
            format!("{:.2}", model.spend_mae),
            other(|b| format!("{:.2}", b.spend_mae)),
        ),
        (
            "normalized Gini",
            format!("{:.4}", model.spend_gini),
            other(|b| format!("{:.4}", b.spend_gini)),
        ),
    ];
    html! {
        ul.cards { @for (name, value, notes) in &cards { li {
            span.name { (name) }
            span.value { (value) }
            @for note in notes { span.note { (note) } }
        } } }
    }
}

fn holdout(holdout: &Holdout) -> Markup {
    let head = [
        "prediction",
        "purchases",
        "error",
        "MAE",
        "correlation",
        "spend",
        "error of spend",
        "MAE of spend",
        "normalized Gini",
    ];
    let row = |errors: &Errors| {
        vec![
            Cell::text(errors.name.clone()),
            Cell::number(errors.purchases, 0),
            Cell::percent(errors.purchases_error),
            Cell::number(errors.purchases_mae, 4),
            Cell::number(errors.purchases_correlation, 4),
            Cell::number(errors.spend, 0),
            Cell::percent(errors.spend_error),
            Cell::number(errors.spend_mae, 2),
            Cell::number(errors.spend_gini, 4),
        ]
    };
    let others = holdout.parts.iter().chain(&holdout.baselines);
    let rows: Vec<Vec<Cell>> = [&holdout.model].into_iter().chain(others).map(row).collect();
    html! {
        p {
            "The same model, fitted on what " (thousands(holdout.customers as u64)) " buyers had done before "
            (day(holdout.from)) ", beside what they did from then to " (day(holdout.until)) ": "
            (thousands(holdout.purchases.round() as u64)) " days with a purchase and "
            (thousands(holdout.spend.round() as u64)) " of spend, refunds not taken off."
        }
        (table("Predictions of the holdout", &head, &rows))
        (classes(
            "frequency",
            "Purchases in the holdout by repeat purchases before it",
            "repeat purchases before",
            "mean purchases",
            &holdout.by_frequency,
            |class| [class.predicted, class.actual],
        ))
        (classes(
            "value",
            "Spend in the holdout by predicted spend, ten groups of equally many",
            "group, the least predicted first",
            "mean spend",
            &holdout.by_value,
            |class| [class.predicted_spend, class.actual_spend],
        ))
    }
}

fn classes(
    id: &str,
    caption: &str,
    x: &str,
    y: &str,
    classes: &[Class],
    of: fn(&Class) -> [f64; 2],
) -> Markup {
    let names: Vec<String> = classes.iter().map(|class| class.name.clone()).collect();
    let values = |i: usize| classes.iter().map(|class| of(class)[i]).collect::<Vec<f64>>();
    let rows = classes.iter().map(|class| {
        let [predicted, actual] = of(class);
        vec![
            Cell::text(class.name.clone()),
            Cell::count(class.customers),
            Cell::number(predicted, 4),
            Cell::number(actual, 4),
        ]
    });
    Chart::new(&format!("by-{id}"), caption, x, y)
        .categories()
        .legend()
        .bars("predicted", BLUE, names.clone(), values(0))
        .bars("what happened", GREY, names, values(1))
        .numbers(&["class", "customers", "predicted", "what happened"], rows.collect())
        .says(format!("{caption}: predicted beside what happened; the table has the numbers."))
        .render()
}

fn fits(metrics: &LifetimeValueMetrics) -> Markup {
    let head = ["fit", "parameter", "value", "standard error"];
    let mut rows = Vec::new();
    let mut starts = Vec::new();
    for (what, parameters, fit) in metrics.fits() {
        for (i, parameter) in parameters.iter().enumerate() {
            let error = fit.standard_errors.as_ref();
            rows.push(vec![
                Cell::text(what.clone()),
                Cell::text(parameter.clone()),
                Cell::number(fit.parameters[i], 4),
                error.map_or(Cell::Empty, |errors| Cell::number(errors[i], 4)),
            ]);
        }
        for start in &fit.starts {
            let from: Vec<String> = start.from.iter().map(|value| format!("{value:.3}")).collect();
            starts.push(vec![
                Cell::text(what.clone()),
                Cell::text(from.join(", ")),
                start.log_likelihood.map_or(Cell::Empty, |value| Cell::number(value, 4)),
                Cell::count(start.iterations as usize),
                Cell::text(if start.converged { "yes" } else { "no" }),
            ]);
        }
    }
    let customers = metrics.purchasing.iter().map(|of| {
        let cohort = of.cohort.clone().unwrap_or_else(|| "all buyers".to_owned());
        vec![
            Cell::text(cohort),
            Cell::count(of.customers),
            Cell::count(of.repeaters),
            Cell::number(of.fit.log_likelihood, 2),
            Cell::text(if of.used { "yes" } else { "no" }),
        ]
    });
    let customers: Vec<Vec<Cell>> = customers.collect();
    html! {
        @if rows.is_empty() { p { "Nothing was fitted." } } @else {
            @if let Some(lesson) = &metrics.lesson { (hurdle(lesson)) }
            h3 { "Purchases and spend per purchase" }
            p {
                "By maximum likelihood from several starts, in days. Standard errors are by the observed "
                "information; none are given where the likelihood is flat."
            }
            (table("Parameters", &head, &rows))
            (table("Customers of each fit", &["customers of", "buyers", "bought again", "log-likelihood", "used"], &customers))
            @if let Some(spend) = &metrics.spend { p {
                "How often and how much customers buy are correlated at " (format!("{:.3}", spend.correlation))
                "; the model of spend takes them for independent."
            } }
            details {
                summary { "Starts" }
                (table("Where each fit began and ended", &["fit", "first parameters", "log-likelihood", "iterations", "converged"], &starts))
            }
        }
    }
}

/// Renders how the weight of the hurdle model was chosen.
fn hurdle(lesson: &Lesson) -> Markup {
    let row = |trial: &Trial| vec![Cell::number(trial.weight, 2), Cell::number(trial.deviance, 4)];
    let rows: Vec<Vec<Cell>> = lesson.trials.iter().map(row).collect();
    html! {
        h3 { "The hurdle model over features" }
        p {
            "It predicts whether a customer purchases at all, and for how much. It was learnt from "
            (thousands(lesson.customers as u64)) " buyers as they were known at " (day(lesson.at)) ", of whom "
            (thousands(lesson.purchased as u64)) " purchased up to " (day(lesson.until)) ". The prediction is the geometric "
            "mean of both models. The weight of the hurdle model is the one with the lowest deviance, where each customer "
            "is predicted by a fit on others. All purchases are then multiplied by " (format!("{:.3}", lesson.purchases))
            " and all spend by " (format!("{:.3}", lesson.value)) ", what came over what the prediction had expected."
        }
        (table("Weights of the hurdle model", &["weight", "Tweedie deviance"], &rows))
    }
}

fn model_card(
    artifact: &Artifact,
    model: &LifetimeValueArtifact,
    metrics: &LifetimeValueMetrics,
) -> Markup {
    let rate = 100.0 * model.spec.discount_rate;
    let usual = "To tell customers by what they are worth: what they have brought, less refunds, and what is expected of them.";
    let [owner, intended] = card::head(&model.spec.card, usual);
    html! {
        (facts(&[
            owner,
            intended,
            ("trained as of", format!("{}, with what was known at {}", artifact.as_of, artifact.known_at)),
            ("ahead", format!("{}, discounted month by month at {rate} % a year", model.spec.horizon)),
            ("refunds", format!("{:.2} % of revenue to date; as much is taken off what is expected", 100.0 * metrics.refund_rate)),
            ("a purchase", format!("a calendar day with an event where {}", model.spec.condition)),
            ("data", artifact.data_fingerprint.clone()),
            ("spec", artifact.spec_fingerprint.clone()),
        ]))
        (card::limits(&model.spec.card, &[
            "Customers buy at a steady pace of their own until they leave for good, so that seasons, contracts and campaigns to come are not in it.",
            "What a customer of one purchase is worth is little more than the mean of all such customers.",
        ]))
    }
}
