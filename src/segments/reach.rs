//! Refuses rules that no customer can ever meet, or that rules before them always preempt.
//!
//! A condition that compares columns with constants does not change between those constants. A value from
//! each interval, the constants themselves and null therefore represent all values: a condition that holds
//! for none of their combinations never holds. Conditions that compute with columns are not judged, and
//! neither are conditions with too many combinations. Columns are assumed to be independent, so that a rule
//! is refused only if no data at all could meet it.

use std::collections::{BTreeMap, BTreeSet};

use super::problem::SegmentProblem;
use super::rule::Rule;
use crate::error::Result;
use crate::expression::reference::evaluate;
use crate::expression::{Columns, Expression, Node, Operator, Type, Value};
use crate::money::Scale;

/// The greatest number of combinations of values that are tried for one rule.
const MOST: usize = 50_000;

/// Refuses rules that cannot have members, and primary rules that can never give the primary segment.
pub fn check(file: &str, rules: &[Rule], columns: &Columns) -> Result<()> {
    for (i, rule) in rules.iter().enumerate() {
        let place = format!("{file}: segment \"{}\"", rule.spec.name);
        if never(&[&rule.enter], &[], columns) {
            let condition = rule.spec.enter.clone();
            return Err(SegmentProblem::Impossible { place, condition }.into());
        }
        let own = columns_of(&[&rule.enter, &rule.stay]);
        let before = |shares: &dyn Fn(&Rule) -> bool| -> Vec<&Rule> {
            let rivals = rules[..i].iter().filter(|rival| {
                // A rule that can expire or that requires consent may release or reject a customer, so that
                // it cannot preempt.
                rival.spec.expires.is_none()
                    && rival.spec.requires_consent.is_empty()
                    && shares(rival)
            });
            rivals.filter(|rival| rival.enter.columns().is_subset(&own)).collect()
        };
        let rivals =
            before(&|rival| rule.spec.group.is_some() && rival.spec.group == rule.spec.group);
        if !rivals.is_empty() && never(&[&rule.enter], &rivals, columns) {
            return Err(SegmentProblem::PreemptedInGroup { place, rivals: names(&rivals) }.into());
        }
        let rivals = before(&|rival| rule.spec.primary && rival.spec.primary);
        let held = [&rule.enter, &rule.stay];
        if !rivals.is_empty() && rule.spec.min_dwell.is_none() && never(&held, &rivals, columns) {
            return Err(SegmentProblem::PreemptedAsPrimary { place, rivals: names(&rivals) }.into());
        }
    }
    Ok(())
}

fn names(rules: &[&Rule]) -> Vec<String> {
    rules.iter().map(|rule| rule.spec.name.clone()).collect()
}

fn columns_of<'a>(conditions: &[&'a Expression]) -> BTreeSet<&'a str> {
    conditions.iter().flat_map(|condition| condition.columns()).collect()
}

/// Whether it is certain that none of `conditions` holds where all `rivals` do not hold.
fn never(conditions: &[&Expression], rivals: &[&Rule], columns: &Columns) -> bool {
    let mut constants = BTreeMap::new();
    let all = conditions.iter().copied().chain(rivals.iter().map(|rival| &rival.enter));
    for condition in all {
        if !collect(condition, &mut constants) {
            return false;
        }
    }
    let domains: Vec<(&str, Vec<Value>)> = constants
        .iter()
        .filter_map(|(name, constants)| {
            Some((*name, domain(columns.get(name)?, constants, columns.scale)))
        })
        .collect();
    let combinations =
        domains.iter().try_fold(1_usize, |product, (_, domain)| product.checked_mul(domain.len()));
    let Some(combinations) = combinations.filter(|count| *count <= MOST) else { return false };
    !(0..combinations).any(|number| {
        let mut rest = number;
        let mut values = BTreeMap::new();
        for (name, domain) in &domains {
            values.insert(*name, &domain[rest % domain.len()]);
            rest /= domain.len();
        }
        let column = |name: &str| values.get(name).map_or(Value::Null, |value| (*value).clone());
        let holds = |condition: &Expression| {
            evaluate(condition, columns.scale, &column) == Value::Boolean(true)
        };
        conditions.iter().any(|condition| holds(condition))
            && !rivals.iter().any(|rival| holds(&rival.enter))
    })
}

/// Collects the constants that each column is compared with. Returns false if the condition computes with a
/// column.
fn collect<'a>(
    condition: &'a Expression,
    constants: &mut BTreeMap<&'a str, Vec<&'a Value>>,
) -> bool {
    use Operator as O;
    match &condition.node {
        Node::Literal(_) => true,
        Node::Column(name) => {
            constants.entry(name).or_default();
            condition.ty == Type::Boolean
        }
        Node::Not(x) => collect(x, constants),
        Node::IsNull(x) => subject(x, constants).is_some() || collect(x, constants),
        Node::Binary(O::And | O::Or, a, b) => collect(a, constants) && collect(b, constants),
        Node::Binary(
            O::Equal | O::NotEqual | O::Less | O::LessOrEqual | O::Greater | O::GreaterOrEqual,
            a,
            b,
        ) => match (&a.node, &b.node) {
            (_, Node::Literal(value)) => compared(a, value, constants),
            (Node::Literal(value), _) => compared(b, value, constants),
            _ => false,
        },
        Node::InList(x, list) => list.iter().all(|value| compared(x, value, constants)),
        _ => false,
    }
}

fn compared<'a>(
    x: &'a Expression,
    value: &'a Value,
    constants: &mut BTreeMap<&'a str, Vec<&'a Value>>,
) -> bool {
    subject(x, constants).is_some_and(|name| {
        constants.entry(name).or_default().push(value);
        true
    })
}

/// The column that is compared, either as it is or cast to another numeric type.
fn subject<'a>(
    x: &'a Expression,
    constants: &mut BTreeMap<&'a str, Vec<&'a Value>>,
) -> Option<&'a str> {
    let name = match &x.node {
        Node::Column(name) => name,
        Node::Cast(inner) if inner.ty.is_numeric() && x.ty.is_numeric() => match &inner.node {
            Node::Column(name) => name,
            _ => return None,
        },
        _ => return None,
    };
    constants.entry(name).or_default();
    Some(name)
}

/// Values of a column that represent all others, given the constants that it is compared with.
fn domain(ty: Type, constants: &[&Value], scale: Scale) -> Vec<Value> {
    let units = |value: &Value| match value {
        Value::Integer(v) | Value::Timestamp(v) => Some(*v as f64),
        Value::Money(v) if ty == Type::Money => Some(*v as f64),
        Value::Money(v) => Some(scale.major(*v)),
        Value::Double(v) if ty == Type::Money => Some(*v * scale.units() as f64),
        Value::Double(v) => Some(*v),
        Value::Date(v) => Some(f64::from(*v)),
        _ => None,
    };
    let mut numbers: Vec<f64> = constants.iter().filter_map(|value| units(value)).collect();
    numbers.push(0.0);
    numbers.sort_by(f64::total_cmp);
    numbers.dedup();
    let whole = || {
        let near = |number: &f64| [-1, 0, 1, 2].map(|step| number.floor() as i64 + step);
        numbers.iter().flat_map(near).collect::<BTreeSet<i64>>()
    };
    let mut values: Vec<Value> = match ty {
        Type::Boolean => vec![Value::Boolean(false), Value::Boolean(true)],
        Type::Text => {
            let texts = constants.iter().filter_map(|value| match value {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            });
            let texts: BTreeSet<String> = texts.collect();
            let other = format!("{}\u{1}", texts.iter().next_back().map_or("", String::as_str));
            // Comparisons by order also need a text before, between and after these texts.
            let after = texts.iter().map(|text| format!("{text}\u{1}")).collect::<Vec<_>>();
            let all = texts.into_iter().chain(after).chain([other, String::new()]);
            all.collect::<BTreeSet<_>>().into_iter().map(Value::Text).collect()
        }
        Type::Integer => whole().into_iter().map(Value::Integer).collect(),
        Type::Money => whole().into_iter().map(Value::Money).collect(),
        Type::Timestamp => whole().into_iter().map(Value::Timestamp).collect(),
        Type::Date => whole().into_iter().map(|day| Value::Date(day as i32)).collect(),
        Type::Double => {
            let between = numbers.windows(2).map(|pair| pair[0] + (pair[1] - pair[0]) / 2.0);
            let outside = [numbers[0] - 1.0, numbers[numbers.len() - 1] + 1.0];
            numbers.iter().copied().chain(between).chain(outside).map(Value::Double).collect()
        }
    };
    values.push(Value::Null);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expression::check::check as parse;
    use crate::segments::tests::rule;
    use rand::seq::IndexedRandom;
    use rand::{Rng, SeedableRng};

    fn columns() -> Columns {
        let types = [
            ("score", Type::Double),
            ("orders", Type::Integer),
            ("spend", Type::Money),
            ("channel", Type::Text),
            ("active", Type::Boolean),
        ];
        Columns::new(Scale::default(), types.map(|(name, ty)| (name.to_owned(), ty)))
    }

    fn message(rules: &[Rule]) -> String {
        check("f", rules, &columns()).err().map_or(String::new(), |error| error.to_string())
    }

    fn primary(name: &str, enter: &str, stay: Option<&str>) -> Rule {
        let mut rule = rule(name, enter, stay, &columns());
        rule.spec.primary = true;
        rule
    }

    #[test]
    fn what_excludes_itself_is_found() {
        for sql in [
            "score >= 0.8 and score < 0.8",
            "orders > 1 and orders < 2",
            "orders > 1.2 and orders < 1.9",
            "spend > 10 and spend < 10.01",
            "spend is null and spend > 1",
            "channel = 'web' and channel = 'app'",
            "active and not active",
            "not (score > 1 or score <= 1 or score is null)",
        ] {
            assert!(message(&[rule("a", sql, None, &columns())]).contains("no members"), "{sql}");
        }
        for sql in [
            "score >= 0.8 and score <= 0.8",
            "orders > 1 and orders < 3",
            "spend > 10 and spend < 10.02",
            "channel <> 'web'",
            "channel > 'app' and channel < 'web'",
            "score * 2 > 3 and score * 2 < 1",
            "orders is null",
        ] {
            assert_eq!(message(&[rule("a", sql, None, &columns())]), "", "{sql}");
        }
    }

    #[test]
    fn what_others_forestall_together_is_found() {
        let (high, low) =
            (primary("high", "score >= 0.5", None), primary("low", "score < 0.5", None));
        let any = primary("any", "score > 0.1 and orders > 3", None);
        let error = message(&[high.clone(), low.clone(), any.clone()]);
        assert!(
            error.contains("\"any\" can be nobody's primary segment: \"high\", \"low\""),
            "{error}"
        );
        assert_eq!(message(&[high.clone(), any.clone(), low.clone()]), "");
        // Members of this rule stay where the others do not hold.
        let stays = primary("any", "score > 0.1", Some("score is null"));
        assert_eq!(message(&[high.clone(), low.clone(), stays]), "");
        // A rule that can expire does not preempt others.
        let mut ends = high.clone();
        ends.spec.expires = Some(crate::time::Duration::days(1));
        assert_eq!(message(&[ends, low.clone(), any.clone()]), "");
        // In a group, a customer who cannot enter cannot stay either.
        let group = |rule: Rule| {
            let spec = crate::segments::RuleSpec { group: Some("g".into()), ..rule.spec };
            Rule { spec, ..rule }
        };
        let mut stays = group(primary("any", "score > 0.6", Some("score is null")));
        stays.spec.primary = false;
        assert!(message(&[group(high), stays]).contains("of its group"));
    }

    /// A condition that is refused does not hold for any random row either.
    #[test]
    fn nothing_that_can_be_met_is_refused() {
        let seed: u64 = rand::rng().random();
        println!("seed {seed}");
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let mut refused = 0;
        for _ in 0..400 {
            let atom = |random: &mut rand_chacha::ChaCha8Rng| {
                let (column, values) = *[
                    ("score", ["0.2", "0.5", "0.8"]),
                    ("orders", ["1", "2", "2.5"]),
                    ("spend", ["1", "1.01", "2.005"]),
                ]
                .choose(random)
                .unwrap();
                let operator = ["<", "<=", ">", ">=", "=", "<>"].choose(random).unwrap();
                match random.random_range(0..8) {
                    0 => format!("{column} is null"),
                    _ => format!("{column} {operator} {}", values.choose(random).unwrap()),
                }
            };
            let atoms: Vec<String> = (0..4).map(|_| atom(&mut random)).collect();
            let join = [" and ", " or "].choose(&mut random).unwrap();
            let sql = format!("({}) and ({})", atoms[..2].join(join), atoms[2..].join(" and "));
            let condition = parse(&sql, &columns(), "test").unwrap();
            let never = never(&[&condition], &[], &columns());
            refused += usize::from(never);
            let found = (0..300).any(|_| {
                let score = f64::from(random.random_range(0..11)) / 10.0;
                let (orders, spend) = (random.random_range(0..5), random.random_range(98..203));
                let nulls: [bool; 3] = std::array::from_fn(|_| random.random::<f64>() < 0.2);
                let column = |name: &str| match name {
                    "score" if !nulls[0] => Value::Double(score),
                    "orders" if !nulls[1] => Value::Integer(orders),
                    "spend" if !nulls[2] => Value::Money(spend),
                    _ => Value::Null,
                };
                evaluate(&condition, Scale::default(), &column) == Value::Boolean(true)
            });
            assert!(!(never && found), "{sql}");
        }
        assert!((20..380).contains(&refused), "{refused} of 400 were refused");
    }
}
