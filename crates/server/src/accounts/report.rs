//! Usage reports as JSON and CSV, the same for `GET /v1/usage` and `foretoken usage`.
//!
//! The invariant: money is formatted exactly, in columns separate from time.

use foretoken_cache::store::{GroupBy, LedgerRow, UsageGroup};
use serde_json::{Map, Value, json};

use super::money::usd;

/// Names of the groupings on the wire and on the command line.
pub const GROUPINGS: [(&str, GroupBy); 5] = [
    ("none", GroupBy::None),
    ("day", GroupBy::Day),
    ("model", GroupBy::Model),
    ("tenant", GroupBy::Tenant),
    ("user", GroupBy::User),
];

/// The grouping of that name.
pub fn grouping(name: &str) -> Option<GroupBy> {
    GROUPINGS.iter().find(|(known, _)| *known == name).map(|(_, group_by)| *group_by)
}

/// Rows and their total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// One per group, in group order.
    pub groups: Vec<UsageGroup>,
    /// The sum of all groups.
    pub total: UsageGroup,
}

impl Report {
    /// Sums up groups.
    pub fn new(groups: Vec<UsageGroup>) -> Report {
        let mut total = UsageGroup::default();
        for group in &groups {
            total.requests += group.requests;
            total.replayed += group.replayed;
            let (sum, one) = (&mut total.sum, &group.sum);
            sum.time_ms = sum.time_ms.max(one.time_ms);
            sum.hit += one.hit;
            sum.miss += one.miss;
            sum.output += one.output;
            sum.reasoning += one.reasoning;
            sum.drafted += one.drafted;
            sum.accepted += one.accepted;
            sum.price = sum.price.saturating_add(one.price);
            sum.saved = sum.saved.saturating_add(one.saved);
            sum.saved_ms += one.saved_ms;
            sum.credit_earned_us += one.credit_earned_us;
            sum.credit_spent_us += one.credit_spent_us;
            sum.queue_ms += one.queue_ms;
            sum.prompt_ms += one.prompt_ms;
            sum.total_ms += one.total_ms;
        }
        Report { groups, total }
    }

    /// The report as one JSON object; `group_by` is the name of the grouping.
    pub fn to_json(&self, group_by: &str) -> Value {
        let data: Vec<Value> = self.groups.iter().map(|group| Value::Object(fields(group))).collect();
        let mut total = fields(&self.total);
        total.shift_remove("group");
        json!({"object": "list", "currency": "USD", "group_by": group_by, "data": data, "total": total})
    }

    /// The groups as comma-separated values (RFC 4180) under a line of names; those of the JSON.
    pub fn to_csv(&self) -> String {
        let head: Vec<String> = fields(&self.total).keys().cloned().collect();
        let mut text = head.join(",") + "\r\n";
        for group in &self.groups {
            let cells: Vec<String> = fields(group).values().map(cell).collect();
            text.push_str(&cells.join(","));
            text.push_str("\r\n");
        }
        text
    }
}

fn fields(group: &UsageGroup) -> Map<String, Value> {
    let LedgerRow { hit, miss, output, reasoning, drafted, accepted, price, saved, saved_ms, .. } = group.sum;
    let seconds = |ms: u64| Value::from(ms as f64 / 1000.0);
    let micros = |us: u64| Value::from(us as f64 / 1e6);
    let entries = [
        ("group", group.group.as_str().into()),
        ("requests", group.requests.into()),
        ("replayed", group.replayed.into()),
        ("prompt_tokens", (hit + miss).into()),
        ("prompt_cache_hit_tokens", hit.into()),
        ("prompt_cache_miss_tokens", miss.into()),
        ("completion_tokens", output.into()),
        ("reasoning_tokens", reasoning.into()),
        ("draft_n", drafted.into()),
        ("draft_n_accepted", accepted.into()),
        ("price", usd(price).into()),
        ("saved_money", usd(saved).into()),
        ("saved_seconds", seconds(saved_ms)),
        ("credit_earned_seconds", micros(group.sum.credit_earned_us)),
        ("credit_spent_seconds", micros(group.sum.credit_spent_us)),
        ("queue_seconds", seconds(group.sum.queue_ms)),
        ("prompt_seconds", seconds(group.sum.prompt_ms)),
        ("total_seconds", seconds(group.sum.total_ms)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn cell(value: &Value) -> String {
    match value {
        // Spreadsheets run a cell that begins like a formula, and user names are client input.
        Value::String(text) if text.starts_with(['=', '+', '@', '-', '\t', '\r']) && !is_amount(text) => {
            quoted(&format!("'{text}"))
        }
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

fn is_amount(text: &str) -> bool {
    text.trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, price: i64) -> UsageGroup {
        let sum = LedgerRow { hit: 3, miss: 4, price, saved: 2, saved_ms: 1500, ..LedgerRow::default() };
        UsageGroup { group: name.to_owned(), requests: 1, sum, replayed: 0 }
    }

    #[test]
    fn a_total_is_the_sum_of_its_groups() {
        let report = Report::new(vec![group("a", 1), group("b", 5_000_000_000)]);
        let total = &report.to_json("tenant")["total"];
        assert_eq!(total["price"], "5.000000001");
        assert_eq!(total["saved_money"], "0.000000004");
        assert_eq!(total["saved_seconds"], 3.0);
        assert_eq!(total["prompt_tokens"], 14);
        assert_eq!(total.get("group"), None);
    }

    #[test]
    fn csv_has_the_columns_of_the_json_and_quotes_what_needs_it() {
        let report = Report::new(vec![group("a/b,\"c\"", 7), group("=1+1", 7)]);
        let csv = report.to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        let names: Vec<String> =
            report.to_json("user")["data"][0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(lines[0], names.join(","));
        assert_eq!(
            lines[1],
            "\"a/b,\"\"c\"\"\",1,0,7,3,4,0,0,0,0,0.000000007,0.000000002,1.5,0.0,0.0,0.0,0.0,0.0"
        );
        assert!(lines[2].starts_with("'=1+1,"));
        assert_eq!(lines.len(), 3);
    }
}
