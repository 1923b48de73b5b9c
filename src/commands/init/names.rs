//! The names that columns and event types have elsewhere.

use crate::schema::EVENT_TYPES;
use crate::sources::files::RawTable;

/// The names that raw columns have for a canonical column, the most specific first, in lower case and without other
/// characters than letters and digits.
const NAMES: [(&str, &[&str]); 12] = [
    (
        "customer360_id",
        &[
            "customer360id",
            "customerid",
            "custid",
            "clientid",
            "householdid",
            "userid",
            "memberid",
            "accountid",
            "buyerid",
            "shopperid",
            "visitorid",
            "personid",
            "contactid",
            "customer",
            "client",
            "user",
        ],
    ),
    (
        "event_ts",
        &[
            "eventts",
            "eventtime",
            "eventtimestamp",
            "eventdate",
            "transactiontimestamp",
            "transactiontime",
            "transactiondate",
            "timestamp",
            "occurredat",
            "happenedat",
            "orderedat",
            "ordertime",
            "orderts",
            "orderdate",
            "purchasedat",
            "purchasetime",
            "purchasedate",
            "boughton",
            "boughtat",
            "invoicedate",
            "ts",
            "time",
            "datetime",
            "date",
            "day",
            "createdat",
        ],
    ),
    ("event_type", &["eventtype", "eventname", "event", "action", "activity", "type"]),
    ("event_id", &["eventid", "lineid", "messageid", "rowid", "uuid", "id"]),
    (
        "order_id",
        &[
            "orderid",
            "ordernumber",
            "orderno",
            "basketid",
            "transactionid",
            "invoiceid",
            "invoiceno",
            "invoice",
            "receiptid",
            "purchaseid",
            "checkoutid",
        ],
    ),
    (
        "product_id",
        &[
            "productid",
            "itemid",
            "sku",
            "stockcode",
            "articleid",
            "movieid",
            "trackid",
            "contentid",
            "product",
            "item",
        ],
    ),
    (
        "category",
        &["category", "productcategory", "categoryname", "categorycode", "department", "genre"],
    ),
    (
        "amount",
        &[
            "amount",
            "salesvalue",
            "ordertotal",
            "totalamount",
            "totalprice",
            "linetotal",
            "netamount",
            "grossamount",
            "total",
            "revenue",
            "amountspent",
            "dollars",
            "dollarvalue",
            "sales",
            "spend",
            "value",
            "price",
        ],
    ),
    ("quantity", &["quantity", "qty", "units", "itemcount"]),
    ("channel", &["channel", "saleschannel", "platform", "device"]),
    ("session_id", &["sessionid", "visitid", "usersession"]),
    ("currency", &["currency", "currencycode"]),
];

/// Names of event types that stand for a standard one, in lower case.
const TYPES: [(&str, &[&str]); 9] = [
    (
        "purchase",
        &[
            "order",
            "ordered",
            "order_placed",
            "order_completed",
            "order_created",
            "transaction",
            "buy",
            "bought",
            "sale",
            "checkout_completed",
            "purchased",
            "purchase_completed",
        ],
    ),
    ("refund", &["return", "returned", "refunded", "order_refunded", "item_returned"]),
    ("product_view", &["view", "viewed", "product_viewed", "view_item", "item_view", "detail"]),
    ("page_view", &["page", "pageview", "page_viewed", "screen_view"]),
    (
        "cart_add",
        &["cart", "addtocart", "add_to_cart", "added_to_cart", "cart_added", "basket_add"],
    ),
    ("session_start", &["login", "session", "visit", "app_open", "signin"]),
    ("email_open", &["email_opened", "open"]),
    ("email_click", &["email_clicked"]),
    ("search", &["searched", "search_performed"]),
];

/// A name in double quotes if it needs them in an expression.
pub fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let begins = name.chars().next().is_some_and(|c| !c.is_ascii_digit());
    if plain && begins { name.to_owned() } else { format!("\"{name}\"") }
}

/// A name in lower case, without what it says in brackets (often a unit) and without other characters than letters
/// and digits.
fn bare(name: &str) -> String {
    let name = name.split(['(', '[']).next().unwrap_or(name);
    name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// The raw columns that may be the canonical one by their names, the best first.
pub fn named<'a>(table: &'a RawTable, column: &str) -> Vec<&'a str> {
    let names = NAMES.iter().find(|(name, _)| *name == column).map_or(&[][..], |(_, names)| names);
    let own = |wanted: &&str| {
        table
            .raw
            .iter()
            .find(|raw| !raw.hive && bare(&raw.name) == **wanted)
            .map(|raw| raw.name.as_str())
    };
    names.iter().filter_map(own).collect()
}

/// The standard event type that a name stands for, if it is known.
pub fn standard_type(name: &str) -> Option<&'static str> {
    // `Order Placed` and `order-placed` are `order_placed`.
    let lower = name.trim().to_ascii_lowercase().replace([' ', '-', '.'], "_");
    let own = EVENT_TYPES.iter().find(|standard| **standard == lower).copied();
    let other = TYPES.iter().find(|(_, names)| names.contains(&lower.as_str()));
    own.or(other.map(|(standard, _)| *standard))
}
