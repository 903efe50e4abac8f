//! Repeated measurements of one thing.

use serde_json::{Value, json};

/// Median and the tenth and ninetieth percentile, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub p10: f64,
    pub p90: f64,
}

impl Spread {
    /// Of at least one value.
    pub fn of(mut v: Vec<f64>) -> Self {
        let median = median(&mut v);
        let at = |share: f64| v[((v.len() - 1) as f64 * share).round() as usize];
        Self { median, p10: at(0.1), p90: at(0.9) }
    }

    /// Puts `seconds`, `p10` and `p90` into a row.
    pub fn write(&self, row: &mut Value) {
        (row["seconds"], row["p10"], row["p90"]) = (json!(self.median), json!(self.p10), json!(self.p90));
    }
}

/// The middle one; of an even number, the upper of the two. Sorts.
pub fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_in_order() {
        assert_eq!(Spread::of(vec![2.0]), Spread { median: 2.0, p10: 2.0, p90: 2.0 });
        let s = Spread::of((0..=10).rev().map(f64::from).collect());
        assert_eq!(s, Spread { median: 5.0, p10: 1.0, p90: 9.0 });
    }
}
