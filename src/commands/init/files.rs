//! The files of a new project.

use super::mapping::{Mapping, Proposal};
use super::names::quoted;
use super::plan::{Affinity, Label, Plan, length};
use crate::config::FileKind;
use crate::schema::{EVENT_TYPES, usual_weight};

/// A file of a project: its path and its content.
pub type File = (String, String);

/// Names in the first line of each file the JSON Schema that editors check it by, and adds these schemas.
pub fn with_schemas(files: Vec<File>) -> Vec<File> {
    let mut kinds: Vec<FileKind> = Vec::new();
    let mut all = Vec::new();
    for (path, text) in files {
        let kind = kind(&path, &text);
        let up = if path.contains('/') { ".." } else { "." };
        all.push((path, format!("#:schema {up}/{}\n{text}", schema_path(kind))));
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    all.extend(kinds.into_iter().map(|kind| (schema_path(kind), format!("{:#}\n", kind.schema()))));
    all
}

fn schema_path(kind: FileKind) -> String {
    format!("schemas/{}.json", kind.name())
}

fn kind(path: &str, text: &str) -> FileKind {
    let of_model = || {
        let line = text.lines().find_map(|line| line.strip_prefix("kind = \"")?.strip_suffix('"'));
        line.and_then(FileKind::named).unwrap_or(FileKind::Segments)
    };
    match path {
        "c360.toml" => FileKind::Project,
        _ if path.starts_with("features/") => FileKind::View,
        _ => of_model(),
    }
}

/// What `c360.toml` says beside the mapping.
pub struct Settings<'a> {
    /// The name of the project.
    pub name: &'a str,
    /// The currency.
    pub currency: &'a str,
    /// The as-of that applies if none is given.
    pub as_of: &'a str,
    /// The path of the events.
    pub events: &'a str,
    /// The path of the profile, with its mapping.
    pub profile: Option<(&'a str, Vec<Proposal>)>,
    /// The share of events that cannot be used.
    pub rejected: f64,
}

fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

fn columns(proposals: &[Proposal]) -> String {
    let line = |p: &Proposal| format!("# {}\n{} = {}\n", p.why, quoted(&p.column), text(&p.sql));
    proposals.iter().map(line).collect()
}

/// Renders `c360.toml`.
pub fn project(settings: &Settings, mapping: &Mapping) -> File {
    let Settings { name, currency, as_of, events, profile, rejected } = settings;
    let mut file = format!(
        "[project]\nname = {}\ncurrency = {}\n# The day after the last event; --as-of overrides it.\nas_of = {}\n",
        text(name),
        text(currency),
        text(as_of)
    );
    match profile {
        Some((path, proposals)) => {
            file += &format!("\n[sources.profile]\npath = {}\n", text(path));
            file += &format!("\n[sources.profile.columns]\n{}", columns(proposals));
        }
        None => file += "\n# Without [sources.profile], the customers are those of the events.\n",
    }
    file += &format!("\n[sources.events]\npath = {}\n", text(events));
    if profile.is_some() {
        file += "# Customers who are not in the profile become customers by their events.\norphans = \"create\"\n";
    }
    if *rejected > 0.0 {
        file += "# Events without a customer or a time, or in another currency, are left out up to this share.\n";
        file += &format!("max_rejected_share = {rejected}\n");
    }
    let own: Vec<String> = mapping
        .types
        .iter()
        .filter(|name| !EVENT_TYPES.contains(&name.as_str()))
        .map(|name| text(name))
        .collect();
    if !own.is_empty() {
        file += &format!(
            "# Event types beside the standard ones.\nevent_types = [{}]\n",
            own.join(", ")
        );
    }
    file += &format!("\n[sources.events.columns]\n{}", columns(&mapping.proposals));
    ("c360.toml".to_owned(), file)
}

/// A feature of a view.
struct Feature {
    name: &'static str,
    op: &'static str,
    /// Further lines.
    lines: Vec<String>,
}

fn feature(
    name: &'static str,
    op: &'static str,
    lines: impl IntoIterator<Item = impl AsRef<str>>,
) -> Feature {
    Feature { name, op, lines: lines.into_iter().map(|line| line.as_ref().to_owned()).collect() }
}

fn view(
    name: &str,
    description: &str,
    features: &[Feature],
    derived: &[(&str, &str, &str)],
) -> File {
    let mut file =
        format!("name = \"{name}\"\nsource = \"events\"\ndescription = {}\n", text(description));
    for Feature { name, op, lines } in features {
        file += &format!("\n[[feature]]\nname = \"{name}\"\nop = \"{op}\"\n");
        lines.iter().for_each(|line| file += &format!("{line}\n"));
    }
    for (name, expression, more) in derived {
        file += &format!("\n[[derived]]\nname = \"{name}\"\nexpr = {}\n{more}", text(expression));
    }
    (format!("features/{name}.toml"), file)
}

/// Renders the feature views.
pub fn features(plan: &Plan, mapping: &Mapping) -> Vec<File> {
    let windows = |days: &[i64]| {
        let list: Vec<String> = days.iter().map(|days| format!("\"{}\"", length(*days))).collect();
        format!("windows = [{}]", list.join(", "))
    };
    let all = windows(&plan.windows);
    let longest = windows(&plan.windows[plan.windows.len() - 1..]);
    let writes = |field: &str| format!("writes = \"{field}\"");
    let input = |sql: &str| format!("input = {}", text(sql));
    let main = format!("where = {}", text(&plan.main));
    let half_life = |days: i64| format!("half_life = \"{}\"", length(days));
    let mut lifecycle = vec![
        feature("first_seen_at", "min", &[input("event_ts"), writes("first_seen_at")]),
        feature("last_seen_at", "max", &[input("event_ts"), writes("last_seen_at")]),
        feature("total_interactions", "count", &[writes("total_interactions")]),
        feature("days_since_first_seen", "days_since_first", [""; 0]),
        feature("days_since_last_seen", "days_since_last", [""; 0]),
        feature("events", "count", [&all]),
        feature("days_active", "active_days", [&all]),
        feature("activity", "decayed_sum", &[half_life(14), longest.clone()]),
    ];
    if mapping.sql("channel").is_some() {
        let lines = [input("channel"), writes("last_channel_seen")];
        lifecycle.push(feature("last_channel_seen", "last", &lines));
    }
    if mapping.sql("session_id").is_some() {
        lifecycle.push(feature(
            "total_sessions",
            "count_distinct",
            &[input("session_id"), writes("total_sessions")],
        ));
    }
    let mut files =
        vec![view("lifecycle", "When and how often customers are there", &lifecycle, &[])];
    let mut own = vec![
        feature("days_since_last", "days_since_last", [&main]),
        feature("days_since_first", "days_since_first", [&main]),
        feature("days", "active_days", &[main.clone(), all.clone()]),
        feature("gap", "mean_gap_days", &[main.clone(), "windows = [\"lifetime\"]".to_owned()]),
        feature("recent", "decayed_sum", &[main.clone(), half_life(14), longest.clone()]),
        feature("earlier", "decayed_sum", &[main.clone(), half_life(45), longest]),
    ];
    let mut derived = vec![("overdue", "days_since_last / greatest(gap_lifetime, 1)", "")];
    if mapping.sql("product_id").is_some() {
        let lines = [input("product_id"), main.clone(), all.clone()];
        own.push(feature("products", "count_distinct", &lines));
    }
    if mapping.sql("category").is_some() {
        let lines = [input("category"), main.clone(), all.clone()];
        own.push(feature("categories", "count_distinct", &lines));
    }
    if plan.main_name == "purchase" {
        let at = |field: &str| [input("event_ts"), main.clone(), writes(field)];
        own.push(feature("first_purchase_at", "min", at("first_purchase_at")));
        own.push(feature("last_purchase_at", "max", at("last_purchase_at")));
    }
    let orders = mapping.sql("order_id").is_some() && plan.main_name == "purchase";
    if orders {
        let lines = [input("order_id"), main.clone()];
        own.push(feature("orders", "count_distinct", lines.iter().chain([&all])));
        let lines = [&lines[..], &[writes("orders_count")]].concat();
        own.push(feature("orders_count", "count_distinct", &lines));
    }
    if plan.has_amounts {
        let lines = [input("amount"), main.clone()];
        own.push(feature("spend", "sum", [&lines[..], &[all]].concat()));
        let lines = [&lines[..], &[writes("total_revenue")]].concat();
        own.push(feature("total_revenue", "sum", &lines));
        if mapping.types.iter().any(|name| name == "refund") {
            let lines = ["amount", "event_type = 'refund'"].map(text);
            let lines = [
                format!("input = {}", lines[0]),
                format!("where = {}", lines[1]),
                writes("refunds_amount"),
            ];
            own.push(feature("refunds_amount", "sum", &lines));
        }
        if orders {
            derived.push((
                "avg_order_value",
                "cast(total_revenue / orders_count as decimal)",
                "writes = \"avg_order_value\"\n",
            ));
        }
    }
    let (name, description) = match plan.main_name.as_str() {
        "purchase" => ("commerce", "Recency, frequency and value of purchases".to_owned()),
        other => ("behaviour", format!("Recency and frequency of {other}")),
    };
    files.push(view(name, &description, &own, &derived));
    files
}

fn classifier(name: &str, kind: &str, about: [&str; 3], label: Label, plan: &Plan) -> File {
    let [description, writes, positive] = about;
    let lookback = length(plan.windows.last().copied().unwrap_or(7));
    let every = length((label.horizon / 2).max(7));
    let file = format!(
        "kind = \"classifier\"\nname = \"{name}\"\ndescription = {}\nwrites = \"{writes}\"\n\
         positive = \"{positive}\"\neligible = {{ within = \"{}\" }}\n\n\
         [label]\nkind = \"{kind}\"\nwhere = {}\ngap = \"{}\"\nhorizon = \"{}\"\n\n\
         [snapshots]\nevery = \"{every}\"\nlookback = \"{lookback}\"\n",
        text(description),
        length(label.within),
        text(&plan.main),
        length(label.gap),
        length(label.horizon),
    );
    (format!("models/{name}.toml"), file)
}

/// Renders the models and segments.
pub fn models(plan: &Plan, mapping: &Mapping) -> Vec<File> {
    let mut files = Vec::new();
    let main = &plan.main_name;
    if let Some(label) = plan.churn {
        let horizon = length(label.horizon);
        let description =
            format!("Probability that an active customer has no {main} within {horizon}");
        let about = [description.as_str(), "churn_risk_score", "churned"];
        files.push(classifier("churn", "absence", about, label, plan));
    }
    if let Some(label) = plan.propensity {
        let horizon = length(label.horizon);
        let description =
            format!("Probability that an active customer has a {main} within {horizon}");
        let about = [description.as_str(), "propensity_to_buy_score", "returned"];
        files.push(classifier("propensity", "presence", about, label, plan));
    }
    let weight = |name: &String| {
        let weight = usual_weight(name)?;
        Some(format!("{} = {weight:?}\n", quoted(name)))
    };
    let mut weights: String = mapping.types.iter().filter_map(weight).collect();
    if weights.is_empty() {
        weights = format!("{} = 1.0\n", text(main));
    }
    files.push((
        "models/engagement.toml".to_owned(),
        format!(
            "kind = \"engagement\"\nname = \"engagement\"\n\
             description = \"How engaged a customer is now, 0-100\"\nhalf_life = \"14d\"\n\n[weights]\n{weights}"
        ),
    ));
    if plan.has_amounts {
        let refunds = mapping.types.iter().any(|name| name == "refund");
        let (where_refund, refunded) = match refunds {
            true => ("event_type = 'refund'", "refunds_amount"),
            false => ("false", "cast(0 as decimal)"),
        };
        files.push((
            "models/rfm.toml".to_owned(),
            format!(
                "kind = \"rfm\"\nname = \"rfm\"\n\
                 description = \"Recency, frequency and monetary value in quintiles of buyers\"\n\
                 where = {}\nrefunds = {}\n",
                text(&plan.main),
                text(where_refund)
            ),
        ));
        let method = if plan.predicts_value { "mbg_nbd" } else { "historic" };
        files.push((
            "models/lifetime_value.toml".to_owned(),
            format!(
                "kind = \"lifetime_value\"\nname = \"lifetime_value\"\n\
                 description = \"Revenue net of refunds to date, and what is expected within a year\"\n\
                 method = \"{method}\"\nrevenue = \"total_revenue\"\nrefunds = {}\nwhere = {}\n",
                text(refunded),
                text(&plan.main)
            ),
        ));
    }
    if let Some(Affinity { item, repeat, horizon }) = plan.affinity {
        files.push((
            "models/affinity.toml".to_owned(),
            format!(
                "kind = \"affinity\"\nname = \"affinity\"\n\
                 description = \"What customers like, by {item}\"\nitem = \"{item}\"\ntop = 10\n\
                 repeat = {repeat}\nhorizon = \"{}\"\n\n[weights]\n{} = 1.0\n",
                length(horizon),
                quoted(main)
            ),
        ));
    }
    files.push(("models/segments.toml".to_owned(), segments(plan)));
    files
}

fn segments(plan: &Plan) -> String {
    let mut file = "# Ordered by priority: the first primary rule that holds names the customer's primary segment.\n\
                    otherwise = \"Others\"\n"
        .to_owned();
    let mut rule = |name: &str, description: &str, enter: &str, more: &str| {
        file += &format!(
            "\n[[segment]]\nname = {}\ndescription = {}\nenter = {}\n{more}",
            text(name),
            text(description),
            text(enter)
        );
    };
    let primary = "primary = true\n";
    if plan.has_amounts {
        rule(
            "high_value",
            "The best fifth by lifetime value",
            "lifetime_value_percentile >= 80",
            "stay = \"lifetime_value_percentile >= 75\"\n",
        );
    }
    if plan.churn.is_some() {
        let stay = "stay = \"churn_risk_score >= 0.5\"\nmin_dwell = \"14d\"\n";
        if plan.has_amounts {
            rule(
                "High value – at risk",
                "Best customers who are about to leave",
                "high_value and churn_risk_score >= 0.6",
                &format!("{}{primary}", stay.replace("churn", "high_value and churn")),
            );
        }
        rule(
            "At risk",
            "Customers who are about to leave",
            "churn_risk_score >= 0.6",
            &format!("{stay}{primary}"),
        );
    }
    if plan.propensity.is_some() {
        rule(
            "ready",
            "The tenth that is likeliest to come back",
            "propensity_to_buy_percentile >= 90",
            "stay = \"propensity_to_buy_percentile >= 85\"\n",
        );
    }
    rule("New", "First seen within 30 days", "days_since_first_seen < 30", primary);
    rule("Active", "Seen within 60 days", "days_since_last_seen < 60", primary);
    rule("Lapsed", "Not seen for 60 days", "days_since_last_seen >= 60", primary);
    file
}
