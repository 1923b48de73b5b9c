//! One simulated customer: latent traits and events.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp, Gamma, LogNormal};

use super::Options;
use crate::time::{DAY, Instant};

/// The product categories.
pub const CATEGORIES: [&str; 12] = [
    "shoes", "shirts", "dresses", "coats", "bags", "sport", "kids", "home", "garden", "beauty",
    "books", "toys",
];
/// The number of products per category.
const PRODUCTS: u32 = 25;

/// The latent truth of one customer.
#[derive(Debug, Clone)]
pub struct Latent {
    /// The number of the customer.
    pub number: u64,
    /// The key of the customer.
    pub key: String,
    /// Whether the profile source has no row of the customer.
    pub orphan: bool,
    /// The purchases per day while alive.
    pub purchase_rate: f64,
    /// The rate of dropping out per day while alive.
    pub dropout_rate: f64,
    /// The time at which the customer arrives, in UTC microseconds.
    pub start: i64,
    /// The time at which the customer drops out, in UTC microseconds.
    pub death: i64,
    /// The indices of the two categories that most of the customer's products belong to.
    pub favourites: [usize; 2],
    /// The median price that the customer pays.
    pub price: f64,
    /// Whether the customer receives emails.
    pub opted_in: bool,
    /// Random bits for the fields of the profile.
    pub traits: u64,
}

/// One event as it is written.
#[derive(Debug, Clone)]
pub struct Event {
    /// The value of `event_id`.
    pub id: String,
    /// The value of `customer360_id`.
    pub customer: String,
    /// The value of `event_type`.
    pub kind: &'static str,
    /// The value of `event_ts`, in UTC microseconds.
    pub time: i64,
    /// The value of `ingested_at`, in UTC microseconds.
    pub ingested: i64,
    /// The value of `channel`.
    pub channel: Option<&'static str>,
    /// The value of `session_id`.
    pub session: Option<String>,
    /// The value of `order_id`.
    pub order: Option<String>,
    /// The value of `product_id`.
    pub product: Option<String>,
    /// The value of `category`.
    pub category: Option<&'static str>,
    /// The value of `quantity`.
    pub quantity: Option<i64>,
    /// The value of `amount`, in cents.
    pub amount: Option<i64>,
}

fn exponential(random: &mut ChaCha8Rng, rate: f64) -> f64 {
    Exp::new(rate).map_or(f64::MAX, |law| law.sample(random))
}

fn gamma(random: &mut ChaCha8Rng, shape: f64, mean: f64) -> f64 {
    Gamma::new(shape, mean / shape).map_or(mean, |law| law.sample(random))
}

fn days(days: f64) -> i64 {
    (days * DAY as f64) as i64
}

impl Latent {
    /// Draws a customer.
    pub fn draw(number: u64, options: &Options, random: &mut ChaCha8Rng) -> Self {
        let begin = options.end.0 - i64::from(options.days) * DAY;
        let start = begin + days(random.random::<f64>() * f64::from(options.days) * 0.85);
        let purchase_rate = gamma(random, 1.3, 1.0 / 60.0).max(1e-5);
        let dropout_rate = gamma(random, 1.5, 1.0 / 250.0).max(1e-6);
        let life = exponential(random, dropout_rate).min(1e5);
        let first = random.random_range(0..CATEGORIES.len());
        let second = random.random_range(0..CATEGORIES.len());
        Self {
            number,
            key: format!("c360_{number:07}"),
            orphan: random.random::<f64>() < 0.003,
            purchase_rate,
            dropout_rate,
            start,
            death: start.saturating_add(days(life)),
            favourites: [first, second],
            price: LogNormal::new(3.4, 0.6).map_or(30.0, |law| law.sample(random)),
            opted_in: random.random::<f64>() < 0.7,
            traits: random.random(),
        }
    }

    /// Whether the customer is alive at `at`.
    pub fn alive(&self, at: Instant) -> bool {
        self.start <= at.0 && at.0 < self.death
    }

    /// The exact probability of no purchase in `[at + gap, at + gap + horizon)`, given the rates and the
    /// state at `at`. It is 1 - e^(-mu g) lambda / (lambda + mu) (1 - e^(-(lambda + mu) H)) while the
    /// customer is alive, with gap g and horizon H.
    pub fn no_purchase(&self, at: Instant, options: &Options) -> f64 {
        if !self.alive(at) {
            return 1.0;
        }
        let (lambda, mu) = (self.purchase_rate, self.dropout_rate);
        let (gap, horizon) = (options.gap.as_days(), options.horizon.as_days());
        let both = lambda + mu;
        1.0 - (-mu * gap).exp() * lambda / both * (1.0 - (-both * horizon).exp())
    }

    /// Draws the events of the customer until the end of the history.
    pub fn live(&self, options: &Options, random: &mut ChaCha8Rng, events: &mut Vec<Event>) {
        let mut life = Life { latent: self, events, random, count: 0, sessions: 0, orders: 0 };
        let end = options.end.0.min(self.death);
        // Most customers arrive with their first purchase.
        let mut time = self.start;
        if life.random.random::<f64>() < 0.6 {
            life.shop(time, true, options.end.0);
        }
        loop {
            time = time.saturating_add(days(exponential(life.random, self.purchase_rate)));
            if time >= end {
                break;
            }
            life.shop(time, true, options.end.0);
        }
        // Visits without a purchase are as frequent as visits with one.
        let mut time = self.start;
        loop {
            time = time.saturating_add(days(exponential(life.random, self.purchase_rate)));
            if time >= end {
                break;
            }
            life.shop(time, false, options.end.0);
        }
        life.marketing(options.end.0);
    }
}

struct Life<'a> {
    latent: &'a Latent,
    events: &'a mut Vec<Event>,
    random: &'a mut ChaCha8Rng,
    count: u32,
    sessions: u32,
    orders: u32,
}

impl Life<'_> {
    fn event(&mut self, kind: &'static str, time: i64) -> Event {
        self.count += 1;
        // Most events are ingested within minutes, and some days later.
        let lag = if self.random.random::<f64>() < 0.02 {
            days(self.random.random::<f64>() * 10.0)
        } else {
            (self.random.random::<f64>() * 300e6) as i64
        };
        Event {
            id: format!("e{:07}-{:05}", self.latent.number, self.count),
            customer: self.latent.key.clone(),
            kind,
            time,
            ingested: time + lag,
            channel: None,
            session: None,
            order: None,
            product: None,
            category: None,
            quantity: None,
            amount: None,
        }
    }

    fn push(&mut self, event: Event, end: i64) {
        if event.time >= end {
            return;
        }
        // Some events are sent again later, with another time of ingestion.
        if self.random.random::<f64>() < 0.004 {
            let mut again = event.clone();
            again.ingested += days(0.1 + self.random.random::<f64>());
            self.events.push(again);
        }
        self.events.push(event);
    }

    fn product(&mut self) -> (&'static str, String) {
        let category = match self.random.random::<f64>() {
            u if u < 0.55 => self.latent.favourites[0],
            u if u < 0.85 => self.latent.favourites[1],
            _ => self.random.random_range(0..CATEGORIES.len()),
        };
        let rank = self.random.random::<f64>().powi(2) * f64::from(PRODUCTS);
        (CATEGORIES[category], format!("{}-{:02}", CATEGORIES[category], rank as u32))
    }

    /// Adds a visit: a session with page and product views, possibly a cart, and possibly an order.
    fn shop(&mut self, time: i64, buys: bool, end: i64) {
        self.sessions += 1;
        let session = format!("s{:07}-{:04}", self.latent.number, self.sessions);
        let channel = match self.random.random::<f64>() {
            u if u < 0.55 => "web",
            u if u < 0.85 => "app",
            _ => "store",
        };
        if channel != "store" {
            let views = 1 + self.random.random_range(0..3);
            let mut start = self.event("session_start", time - 400_000_000);
            start.channel = Some(channel);
            start.session = Some(session.clone());
            self.push(start, end);
            for view in 0..views {
                let (category, product) = self.product();
                let kind = ["page_view", "product_view", "product_view", "search"]
                    [self.random.random_range(0..4)];
                let mut event = self.event(kind, time - 300_000_000 + view * 60_000_000);
                event.channel = Some(channel);
                event.session = Some(session.clone());
                if kind == "product_view" {
                    event.product = Some(product);
                    event.category = Some(category);
                }
                self.push(event, end);
            }
            if buys || self.random.random::<f64>() < 0.2 {
                let (category, product) = self.product();
                let mut cart = self.event("cart_add", time - 60_000_000);
                cart.channel = Some(channel);
                cart.session = Some(session.clone());
                cart.product = Some(product);
                cart.category = Some(category);
                self.push(cart, end);
            }
        }
        if buys {
            self.order(time, channel, &session, end);
        }
    }

    fn order(&mut self, time: i64, channel: &'static str, session: &str, end: i64) {
        self.orders += 1;
        let order = format!("o{:07}-{:04}", self.latent.number, self.orders);
        let lines =
            1 + self.random.random_range(0..3_i64) * i64::from(self.random.random::<bool>());
        let mut total = 0;
        for _ in 0..lines {
            let (category, product) = self.product();
            let price = LogNormal::new(self.latent.price.ln(), 0.4)
                .map_or(self.latent.price, |law| law.sample(self.random));
            let amount = (price * 100.0).round() as i64;
            total += amount;
            let mut line = self.event("purchase", time);
            line.channel = Some(channel);
            line.session = Some(session.to_owned());
            line.order = Some(order.clone());
            line.product = Some(product);
            line.category = Some(category);
            line.quantity = Some(1);
            line.amount = Some(amount);
            self.push(line, end);
        }
        if self.random.random::<f64>() < 0.05 {
            let later = days(2.0 + self.random.random::<f64>() * 10.0);
            let mut refund = self.event("refund", time + later);
            refund.channel = Some(channel);
            refund.order = Some(order);
            refund.amount = Some(if self.random.random() { total } else { (total / 2).max(1) });
            self.push(refund, end);
        }
        if self.random.random::<f64>() < 0.04 {
            let kind = if self.random.random::<f64>() < 0.7 {
                "support_ticket"
            } else {
                "support_contact"
            };
            let later = days(self.random.random::<f64>() * 5.0);
            let mut ticket = self.event(kind, time + later);
            ticket.channel = Some("support");
            self.push(ticket, end);
        }
    }

    /// Adds a newsletter or push message about every four weeks. Customers who are still alive open it more
    /// often.
    fn marketing(&mut self, end: i64) {
        if !self.latent.opted_in {
            return;
        }
        let mut time = self.latent.start;
        loop {
            time = time.saturating_add(days(14.0 + self.random.random::<f64>() * 28.0));
            if time >= end {
                return;
            }
            let push = self.random.random::<f64>() < 0.2;
            let (sent, opened, channel) = if push {
                ("push_sent", "push_open", "app")
            } else {
                ("email_sent", "email_open", "email")
            };
            let mut event = self.event(sent, time);
            event.channel = Some(channel);
            self.push(event, end);
            let interested = time < self.latent.death;
            if self.random.random::<f64>() < if interested { 0.35 } else { 0.03 } {
                let later = time + days(self.random.random::<f64>());
                let mut open = self.event(opened, later);
                open.channel = Some(channel);
                self.push(open, end);
                if !push && interested && self.random.random::<f64>() < 0.3 {
                    let mut click = self.event("email_click", later + 30_000_000);
                    click.channel = Some(channel);
                    self.push(click, end);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;
    use rand::SeedableRng;

    /// Compares the closed form with the share among a hundred thousand simulated lives.
    #[test]
    fn the_exact_probability_is_what_happens() {
        let options = Options {
            customers: 1,
            days: 100,
            seed: 1,
            end: Instant(0),
            gap: Duration::days(7),
            horizon: Duration::days(90),
            truth_at: vec![],
        };
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut latent = Latent::draw(0, &options, &mut random);
        (latent.start, latent.death) = (-DAY, DAY);
        (latent.purchase_rate, latent.dropout_rate) = (0.02, 0.01);
        let expected = latent.no_purchase(Instant(0), &options);
        let lives = 100_000;
        let none = (0..lives)
            .filter(|_| {
                let death = exponential(&mut random, 0.01);
                let mut time = 0.0;
                loop {
                    time += exponential(&mut random, 0.02);
                    if time >= death.min(97.0) {
                        return true;
                    }
                    if time >= 7.0 {
                        return false;
                    }
                }
            })
            .count();
        let share = none as f64 / f64::from(lives);
        assert!((share - expected).abs() < 0.006, "{share} {expected}");
    }
}
