//! The 50 fields of the unified customer profile, the canonical event columns and the standard event types.
//! They are the contract between this job and every reader of its output.

use std::sync::Arc;

use arrow_schema::{DataType, Field, TimeUnit};

/// The origin of a profile field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The value is carried through from the profile source.
    Raw,
    /// The value follows from a rule over raw fields and events.
    Derived,
    /// The value comes from a model or a segment rule.
    Modeled,
}

/// One field of the written profile.
#[derive(Debug, Clone)]
pub struct ProfileField {
    /// The column's name.
    pub name: &'static str,
    /// The origin of the value.
    pub origin: Origin,
    /// A description of what writes the value.
    pub written_by: &'static str,
}

use Origin::{Derived, Modeled, Raw};

const fn field(name: &'static str, origin: Origin, written_by: &'static str) -> ProfileField {
    ProfileField { name, origin, written_by }
}

const EVENTS: &str = "a feature with writes = this field";

/// All profile fields in their written order.
pub const PROFILE: [ProfileField; 50] = [
    field("customer360_id", Raw, "profile source (key)"),
    field("primary_source", Raw, "profile source"),
    field("source_ids", Raw, "profile source, any nested type, as it came"),
    field("created_at", Raw, "profile source; first event for a created orphan"),
    field("updated_at", Derived, "as-of of the last run that changed the row"),
    field("first_name", Raw, "profile source"),
    field("last_name", Raw, "profile source"),
    field("full_name", Derived, "first_name + ' ' + last_name where null"),
    field("primary_email", Raw, "profile source"),
    field("primary_phone", Raw, "profile source"),
    field("emails", Raw, "profile source"),
    field("phones", Raw, "profile source"),
    field("language", Raw, "profile source"),
    field("country", Raw, "profile source"),
    field("region", Raw, "profile source"),
    field("city", Raw, "profile source"),
    field("postal_code", Raw, "profile source"),
    field("date_of_birth", Raw, "profile source"),
    field("age", Derived, "completed years at the as-of, from date_of_birth"),
    field("gender", Raw, "profile source"),
    field(
        "preferred_channel",
        Raw,
        "profile source; where null, the consented channel most engaged",
    ),
    field("opt_in_status", Raw, "profile source"),
    field("consent_scopes", Raw, "profile source"),
    field("interests", Raw, "profile source; where empty, top affinity categories"),
    field("first_seen_at", Derived, EVENTS),
    field("last_seen_at", Derived, EVENTS),
    field("last_channel_seen", Derived, EVENTS),
    field("total_sessions", Derived, EVENTS),
    field("total_interactions", Derived, EVENTS),
    field("email_opens", Derived, EVENTS),
    field("email_clicks", Derived, EVENTS),
    field("push_notifications", Derived, EVENTS),
    field("support_tickets", Derived, EVENTS),
    field("last_support_interaction_at", Derived, EVENTS),
    field("first_purchase_at", Derived, EVENTS),
    field("last_purchase_at", Derived, EVENTS),
    field("orders_count", Derived, EVENTS),
    field("refunds_count", Derived, EVENTS),
    field("total_revenue", Derived, EVENTS),
    field("avg_order_value", Derived, EVENTS),
    field("refunds_amount", Derived, EVENTS),
    field("lifetime_value", Modeled, "models/lifetime_value.toml"),
    field("loyalty_tier", Raw, "profile source"),
    field("loyalty_points_balance", Raw, "profile source"),
    field("churn_risk_score", Modeled, "the model with writes = \"churn_risk_score\""),
    field(
        "propensity_to_buy_score",
        Modeled,
        "the model with writes = \"propensity_to_buy_score\"",
    ),
    field("engagement_score", Modeled, "models/engagement.toml"),
    field("recommendation_vector", Modeled, "models/affinity.toml"),
    field("primary_segment", Modeled, "models/segments.toml"),
    field("segments", Modeled, "models/segments.toml"),
];

/// Returns the profile field with this name.
pub fn profile_field(name: &str) -> Option<&'static ProfileField> {
    PROFILE.iter().find(|field| field.name == name)
}

impl ProfileField {
    /// The Arrow type of the written column. It is None for `source_ids`, which keeps the type of the source,
    /// and for `date_of_birth`, which is a date, or text if it may be partial.
    pub fn arrow_type(&self) -> Option<DataType> {
        let money = DataType::Decimal128(18, 2);
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        Some(match self.name {
            "source_ids" | "date_of_birth" => return None,
            "created_at" | "updated_at" => timestamp,
            name if name.ends_with("_at") => timestamp,
            "age" => DataType::Int32,
            "emails" | "phones" | "consent_scopes" | "interests" | "segments" => {
                list_of(DataType::Utf8)
            }
            "recommendation_vector" => list_of(DataType::Float32),
            "total_sessions" | "total_interactions" | "email_opens" | "email_clicks"
            | "push_notifications" | "support_tickets" | "orders_count" | "refunds_count" => {
                DataType::Int64
            }
            "total_revenue"
            | "avg_order_value"
            | "refunds_amount"
            | "lifetime_value"
            | "loyalty_points_balance" => money,
            "churn_risk_score" | "propensity_to_buy_score" => DataType::Decimal128(9, 6),
            "engagement_score" => DataType::Decimal128(5, 2),
            _ => DataType::Utf8,
        })
    }

    /// The name of the column's type: an SQL type if `sql`, an Arrow type otherwise.
    pub fn type_name(&self, sql: bool) -> String {
        match self.name {
            "source_ids" if sql => "JSON".into(),
            "source_ids" => "map, list, struct or utf8, as it came".into(),
            "date_of_birth" if sql => "VARCHAR".into(),
            "date_of_birth" => "date32 or utf8 (may be partial)".into(),
            _ => self.arrow_type().map_or_else(String::new, |ty| type_name(&ty, sql)),
        }
    }
}

/// Returns a list type whose items are named `item` and may be null, which is the default of Arrow writers.
pub fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

/// Returns the name of an Arrow type: an SQL type if `sql`, an Arrow type otherwise.
pub fn type_name(ty: &DataType, sql: bool) -> String {
    let text = match (ty, sql) {
        (DataType::Utf8, true) => "VARCHAR",
        (DataType::Int32, true) => "INTEGER",
        (DataType::Int64, true) => "BIGINT",
        (DataType::Float32, true) => "REAL",
        (DataType::Date32, true) => "DATE",
        (DataType::Timestamp(..), true) => "TIMESTAMP WITH TIME ZONE",
        (DataType::Utf8, _) => "utf8",
        (DataType::Int32, _) => "int32",
        (DataType::Int64, _) => "int64",
        (DataType::Float32, _) => "float32",
        (DataType::Float64, _) => "float64",
        (DataType::Boolean, _) => "boolean",
        (DataType::Date32, _) => "date32",
        (DataType::Timestamp(TimeUnit::Microsecond, Some(_)), _) => "timestamp[us, UTC]",
        (DataType::Decimal128(p, s), true) => return format!("DECIMAL({p}, {s})"),
        (DataType::Decimal128(p, s), _) => return format!("decimal({p}, {s})"),
        (DataType::List(item), true) => return format!("{}[]", type_name(item.data_type(), true)),
        (DataType::List(item), _) => {
            return format!("list<{}>", type_name(item.data_type(), false));
        }
        (DataType::Map(entries, _), _) => {
            let names: Vec<String> = match entries.data_type() {
                DataType::Struct(fields) => {
                    fields.iter().map(|field| type_name(field.data_type(), sql)).collect()
                }
                other => vec![type_name(other, sql)],
            };
            return format!("map<{}>", names.join(", "));
        }
        (DataType::Dictionary(_, value), _) => {
            return format!("dictionary<{}>", type_name(value, sql));
        }
        (other, _) => return other.to_string().to_lowercase(),
    };
    text.to_owned()
}

/// The event types of the standard vocabulary.
pub const EVENT_TYPES: [&str; 21] = [
    "session_start",
    "page_view",
    "product_view",
    "search",
    "click",
    "cart_add",
    "purchase",
    "refund",
    "email_sent",
    "email_open",
    "email_click",
    "push_sent",
    "push_open",
    "sms_sent",
    "sms_click",
    "support_ticket",
    "support_contact",
    "loyalty_earn",
    "loyalty_redeem",
    "subscription_start",
    "subscription_cancel",
];

/// The weight that an event of a standard type has in an engagement score where the spec sets none; `None` for types
/// that the customer does not bring about.
pub fn usual_weight(event_type: &str) -> Option<f64> {
    match event_type {
        "purchase" => Some(10.0),
        "cart_add" => Some(5.0),
        "product_view" | "click" | "email_click" | "sms_click" | "push_open" => Some(2.0),
        "page_view" | "search" | "session_start" | "email_open" => Some(1.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_has_fifty_distinct_fields() {
        let names: std::collections::BTreeSet<&str> = PROFILE.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), 50);
        let modeled = PROFILE.iter().filter(|f| f.origin == Modeled).count();
        assert_eq!(modeled, 7);
    }
}
