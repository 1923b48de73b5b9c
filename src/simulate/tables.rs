//! Converts simulated customers and events to rows for Parquet.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, ListBuilder, MapBuilder, StringBuilder,
    StringDictionaryBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};

use super::Options;
use super::customers::{CATEGORIES, Event, Latent};
use crate::error::{Error, Result};

const FIRST: [&str; 12] =
    ["Ada", "Ben", "Chloé", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "June", "Kai", "Lea"];
const LAST: [&str; 10] =
    ["Abt", "Bauer", "Costa", "Dubois", "Eriksen", "Fischer", "García", "Huber", "Ito", "Jansen"];
const COUNTRIES: [(&str, &str, &str); 5] = [
    ("DE", "de", "Berlin"),
    ("FR", "fr", "Lyon"),
    ("ES", "es", "Sevilla"),
    ("IT", "it", "Torino"),
    ("NL", "nl", "Utrecht"),
];
const TIERS: [&str; 4] = ["bronze", "silver", "gold", "platinum"];

fn timestamps(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn strings<T: AsRef<str>>(values: impl Iterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn money(values: impl Iterator<Item = Option<i64>>) -> Result<ArrayRef> {
    let values: Decimal128Array = values.map(|v| v.map(i128::from)).collect();
    let values =
        values.with_precision_and_scale(18, 2).map_err(Error::engine("simulating money"))?;
    Ok(Arc::new(values))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, name != "customer360_id")),
    )
    .map_err(Error::engine("simulating rows"))
}

/// Converts events to rows.
pub fn events(events: &[Event]) -> Result<RecordBatch> {
    let text = |f: &dyn Fn(&Event) -> Option<String>| strings(events.iter().map(f));
    batch(vec![
        ("event_id", text(&|e| Some(e.id.clone()))),
        ("customer360_id", text(&|e| Some(e.customer.clone()))),
        ("event_type", strings(events.iter().map(|e| Some(e.kind)))),
        ("event_ts", timestamps(events.iter().map(|e| Some(e.time)))),
        ("ingested_at", timestamps(events.iter().map(|e| Some(e.ingested)))),
        ("channel", strings(events.iter().map(|e| e.channel))),
        ("session_id", text(&|e| e.session.clone())),
        ("order_id", text(&|e| e.order.clone())),
        ("product_id", text(&|e| e.product.clone())),
        ("category", strings(events.iter().map(|e| e.category))),
        ("quantity", Arc::new(events.iter().map(|e| e.quantity).collect::<Int64Array>())),
        ("amount", money(events.iter().map(|e| e.amount))?),
        ("currency", strings(events.iter().map(|e| e.amount.map(|_| "EUR")))),
    ])
}

/// Converts customers that are not orphans to profile rows, with extra columns of every unusual type.
pub fn profile(latents: &[Latent], options: &Options) -> Result<RecordBatch> {
    let latents: Vec<&Latent> = latents.iter().filter(|latent| !latent.orphan).collect();
    // Each field uses another part of the customer's random bits.
    let pick = |latent: &Latent, field: u32, of: usize| {
        (latent.traits.rotate_right(field * 5) % of as u64) as usize
    };
    let rare = |latent: &Latent, field: u32, percent: usize| pick(latent, field, 100) < percent;
    let first = |l: &Latent| FIRST[pick(l, 0, FIRST.len())];
    let last = |l: &Latent| LAST[pick(l, 1, LAST.len())];
    let email = |l: &Latent| format!("customer{}@example.com", l.number);
    let phone = |l: &Latent| format!("+49 30 {:07}", l.number);
    let text = |f: &dyn Fn(&Latent) -> Option<String>| strings(latents.iter().map(|l| f(l)));
    let lists = |f: &dyn Fn(&Latent) -> Option<Vec<String>>| -> ArrayRef {
        let mut list = ListBuilder::new(StringBuilder::new());
        for latent in &latents {
            let values = f(latent);
            values.iter().flatten().for_each(|value| list.values().append_value(value));
            list.append(values.is_some());
        }
        Arc::new(list.finish())
    };
    let mut source_ids = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    let mut device = StringDictionaryBuilder::<Int32Type>::new();
    let mut embedding = FixedSizeListBuilder::new(Float32Builder::new(), 4);
    for latent in &latents {
        source_ids.keys().append_value("crm");
        source_ids.values().append_value(format!("crm-{}", latent.number * 7 + 1));
        if rare(latent, 2, 60) {
            source_ids.keys().append_value("shop");
            source_ids.values().append_value(format!("shop-{}", latent.number));
        }
        source_ids.append(true).map_err(Error::engine("simulating maps"))?;
        device.append_value(["phone", "tablet", "desktop"][pick(latent, 3, 3)]);
        for i in 0..4 {
            embedding.values().append_value(pick(latent, 4 + i, 1000) as f32 / 1000.0);
        }
        embedding.append(true);
    }
    let household = StructArray::from(vec![
        (
            Arc::new(Field::new("size", DataType::Int64, true)),
            Arc::new(latents.iter().map(|l| Some(pick(l, 8, 5) as i64 + 1)).collect::<Int64Array>())
                as ArrayRef,
        ),
        (
            Arc::new(Field::new("owner", DataType::Boolean, true)),
            Arc::new(latents.iter().map(|l| Some(rare(l, 9, 50))).collect::<BooleanArray>())
                as ArrayRef,
        ),
    ]);
    let birth = |l: &Latent| {
        let (year, month, day) = (1940 + pick(l, 3, 65), 1 + pick(l, 4, 12), 1 + pick(l, 5, 28));
        match pick(l, 6, 10) {
            0 => None,
            1 => Some(format!("{year}")),
            2 => Some(format!("{year}-{month:02}")),
            _ => Some(format!("{year}-{month:02}-{day:02}")),
        }
    };
    let country = |l: &Latent| COUNTRIES[pick(l, 7, COUNTRIES.len())];
    let scopes = |l: &Latent| {
        let all = ["email", "sms", "push"];
        l.opted_in.then(|| all[..1 + pick(l, 10, 3)].iter().map(|s| (*s).to_owned()).collect())
    };
    batch(vec![
        ("customer360_id", text(&|l| Some(l.key.clone()))),
        ("primary_source", text(&|l| Some(["crm", "shop", "store"][pick(l, 2, 3)].into()))),
        ("source_ids", Arc::new(source_ids.finish())),
        ("created_at", timestamps(latents.iter().map(|l| Some(l.start)))),
        ("updated_at", timestamps(latents.iter().map(|l| Some(l.start)))),
        ("first_name", text(&|l| (!rare(l, 11, 3)).then(|| first(l).into()))),
        ("last_name", text(&|l| (!rare(l, 12, 3)).then(|| last(l).into()))),
        ("primary_email", text(&|l| (!rare(l, 1, 5)).then(|| email(l)))),
        ("primary_phone", text(&|l| rare(l, 2, 40).then(|| phone(l)))),
        ("emails", lists(&|l| (!rare(l, 1, 5)).then(|| vec![email(l)]))),
        ("phones", lists(&|l| rare(l, 2, 40).then(|| vec![phone(l)]))),
        ("language", text(&|l| Some(country(l).1.into()))),
        ("country", text(&|l| Some(country(l).0.into()))),
        ("region", text(&|_| None)),
        ("city", text(&|l| Some(country(l).2.into()))),
        ("postal_code", text(&|l| Some(format!("{:05}", 10_000 + pick(l, 5, 80_000))))),
        ("date_of_birth", text(&birth)),
        ("gender", text(&|l| Some(["f", "m", "x"][pick(l, 6, 20).min(2)].into()))),
        ("preferred_channel", text(&|l| rare(l, 8, 20).then(|| "email".into()))),
        (
            "opt_in_status",
            text(&|l| Some(if l.opted_in { "opted_in" } else { "opted_out" }.into())),
        ),
        ("consent_scopes", lists(&scopes)),
        ("interests", lists(&|l| rare(l, 9, 10).then(|| vec![CATEGORIES[l.favourites[0]].into()]))),
        (
            "loyalty_tier",
            text(&|l| rare(l, 10, 70).then(|| TIERS[pick(l, 11, TIERS.len())].into())),
        ),
        (
            "loyalty_points_balance",
            money(latents.iter().map(|l| Some(pick(l, 12, 500_000) as i64)))?,
        ),
        ("device", Arc::new(device.finish())),
        ("embedding", Arc::new(embedding.finish())),
        ("household", Arc::new(household)),
        ("signup_day", timestamps(latents.iter().map(|l| Some(l.start.min(options.end.0))))),
    ])
}

/// Converts customers to rows of the truth, one per customer and instant. No command reads the truth.
pub fn truth(latents: &[Latent], options: &Options) -> Result<RecordBatch> {
    let rows = || latents.iter().flat_map(|l| options.truth_at.iter().map(move |at| (l, *at)));
    let number = |f: &dyn Fn(&Latent) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows().map(|(l, _)| f(l))))
    };
    let favourites =
        |i: usize| strings(rows().map(move |(l, _)| Some(CATEGORIES[l.favourites[i]])));
    batch(vec![
        ("customer360_id", strings(rows().map(|(l, _)| Some(&l.key)))),
        ("at", timestamps(rows().map(|(_, at)| Some(at.0)))),
        ("alive", Arc::new(rows().map(|(l, at)| Some(l.alive(at))).collect::<BooleanArray>())),
        (
            "no_purchase_probability",
            Arc::new(Float64Array::from_iter_values(
                rows().map(|(l, at)| l.no_purchase(at, options)),
            )),
        ),
        ("purchase_rate", number(&|l| l.purchase_rate)),
        ("dropout_rate", number(&|l| l.dropout_rate)),
        ("started_at", timestamps(rows().map(|(l, _)| Some(l.start)))),
        ("died_at", timestamps(rows().map(|(l, _)| Some(l.death)))),
        ("first_favourite", favourites(0)),
        ("second_favourite", favourites(1)),
    ])
}
