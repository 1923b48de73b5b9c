//! A customer as the models of purchases see them.

/// The purchase history of a customer: the sufficient statistics of all three families.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Buyer {
    /// The number of purchases after the first.
    pub frequency: f64,
    /// The time from the first purchase to the last; 0 for a one-time buyer.
    pub recency: f64,
    /// The time from the first purchase to now.
    pub age: f64,
}
