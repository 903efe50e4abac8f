//! A report beside an earlier one of the same kind.

use super::spread::Spread;
use crate::device::Device;
use crate::report::table::Table;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// What must be the same in both, where both say it.
const SAME: [&str; 3] = ["device", "network", "batch"];

/// An earlier report.
pub struct Earlier {
    path: PathBuf,
    document: Value,
}

/// Seconds of rows that both reports have.
pub struct Compared {
    path: PathBuf,
    /// Name, then, now.
    rows: Vec<(String, Spread, Spread)>,
    /// Of rows that only one of them has.
    missing: Vec<String>,
}

impl Earlier {
    /// Reads the report of `bench KIND --json` in `path`. Errors, naming the file, if it is none, of another kind, or of
    /// another device.
    pub fn load(path: &Path, kind: &str, device: &Device) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
        let document: Value = serde_json::from_str(&text)
            .map_err(|e| Error::file(path, format!("is no report of `bench {kind} --json`: {e}")))?;
        let earlier = Self { path: path.into(), document };
        match earlier.document["bench"].as_str() {
            Some(found) if found == kind => {}
            Some(found) => return Err(earlier.fault(format!("is a report of `bench {found}`, not of `bench {kind}`"))),
            None => return Err(earlier.fault(format!("is no report of `bench {kind} --json`"))),
        }
        earlier.same("device", &json!(device.name()))?;
        if rows(&earlier.document).is_empty() {
            return Err(earlier.fault("holds no times"));
        }
        Ok(earlier)
    }

    fn fault(&self, detail: impl fmt::Display) -> Error {
        Error::file(&self.path, detail)
    }

    fn same(&self, key: &str, now: &Value) -> Result<()> {
        let then = &self.document[key];
        if then.is_null() || now.is_null() || then == now {
            return Ok(());
        }
        let detail = format!("{key} was {then} and is {now} now: times of the two say nothing about each other");
        Err(self.fault(detail))
    }

    /// The rows of `now` beside those of the same name. Errors if network or batch differ or no row is in both.
    pub fn beside(self, now: &Value) -> Result<Compared> {
        SAME.iter().try_for_each(|key| self.same(key, &now[*key]))?;
        let (then, now) = (rows(&self.document), rows(now));
        let has = |list: &[(String, Spread)], name: &str| list.iter().any(|r| r.0 == name);
        let missing = |a: &[(String, Spread)], b: &[(String, Spread)]| {
            a.iter().filter(|r| !has(b, &r.0)).map(|r| r.0.clone()).collect::<Vec<_>>()
        };
        let missing = [missing(&then, &now), missing(&now, &then)].concat();
        let find = |(name, now): (String, Spread)| {
            then.iter().find(|r| r.0 == name).map(|(_, then)| (name.clone(), *then, now))
        };
        let rows: Vec<_> = now.into_iter().filter_map(find).collect();
        if rows.is_empty() {
            return Err(self.fault("has no row in common with this report"));
        }
        Ok(Compared { path: self.path, rows, missing })
    }
}

/// Names and seconds of a report; a single value is a spread of its own.
fn rows(document: &Value) -> Vec<(String, Spread)> {
    let spread = |median: &Value, p10: &Value, p90: &Value| {
        let median = median.as_f64().filter(|s| *s > 0.0)?;
        Some(Spread { median, p10: p10.as_f64().unwrap_or(median), p90: p90.as_f64().unwrap_or(median) })
    };
    let mut found = Vec::new();
    let mut add = |name: String, s: Option<Spread>| found.extend(s.map(|s| (name, s)));
    for half in ["generator", "student", "step", "graph"] {
        let range = &document[format!("{half}_p10_p90")];
        add(half.into(), spread(&document[format!("{half}_seconds")], &range[0], &range[1]));
    }
    for row in document["speed"].as_array().into_iter().flatten() {
        for kind in ["integer", "float"] {
            let name = format!("{kind}, batch {}", row["batch"]);
            add(name, spread(&row[format!("{kind}_seconds")], &Value::Null, &Value::Null));
        }
    }
    for row in document["rows"].as_array().into_iter().flatten() {
        let name = row["name"].as_str().unwrap_or("?");
        add(name.into(), spread(&row["seconds"], &row["p10"], &row["p90"]));
    }
    found
}

/// Whether both have a spread, and not one in common.
fn apart(a: &Spread, b: &Spread) -> bool {
    let known = a.p10 < a.p90 && b.p10 < b.p90;
    known && (a.p90 < b.p10 || b.p90 < a.p10)
}

impl Compared {
    pub fn to_json(&self) -> Value {
        let row = |(name, then, now): &(String, Spread, Spread)| {
            json!({"name": name, "then": then.median, "now": now.median, "ratio": then.median / now.median,
                "apart": apart(then, now)})
        };
        json!({"file": self.path, "rows": self.rows.iter().map(row).collect::<Vec<_>>(), "missing": self.missing})
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new([&format!("beside {}", self.path.display()), "then ms", "now ms", "then / now"]);
        for (name, then, now) in &self.rows {
            let mark = if apart(then, now) { "*" } else { " " };
            table.row([
                name.clone(),
                format!("{:.3}", then.median * 1e3),
                format!("{:.3}", now.median * 1e3),
                format!("{:.2}{mark}", then.median / now.median),
            ]);
        }
        write!(f, "\n{table}")?;
        if self.rows.iter().any(|(_, then, now)| apart(then, now)) {
            writeln!(f, "* the tenth to ninetieth percentiles of the two do not meet")?;
        }
        if !self.missing.is_empty() {
            writeln!(f, "in one of the two only: {}", self.missing.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(document: Value) -> Earlier {
        Earlier { path: "old.json".into(), document }
    }

    #[test]
    fn ratios_are_then_over_now_and_rows_of_one_side_are_named() {
        let then =
            json!({"rows": [{"name": "a", "seconds": 2.0, "p10": 1.9, "p90": 2.1}, {"name": "b", "seconds": 1.0}]});
        let now =
            json!({"rows": [{"name": "a", "seconds": 1.0, "p10": 0.9, "p90": 1.1}, {"name": "c", "seconds": 1.0}]});
        let doc = earlier(then.clone()).beside(&now).unwrap().to_json();
        assert_eq!(doc["rows"], json!([{"name": "a", "then": 2.0, "now": 1.0, "ratio": 2.0, "apart": true}]));
        assert_eq!(doc["missing"], json!(["b", "c"]));
        let error = earlier(then).beside(&json!({"rows": []})).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("old.json") && error.contains("no row in common"), "{error}");
    }

    #[test]
    fn another_batch_is_refused_and_both_older_kinds_have_rows() {
        let step =
            json!({"bench": "step", "batch": 4, "generator_seconds": 1.0, "student_seconds": 0.5, "step_seconds": 1.5});
        let names: Vec<String> = rows(&step).into_iter().map(|r| r.0).collect();
        assert_eq!(names, ["generator", "student", "step"]);
        let error =
            earlier(step).beside(&json!({"batch": 8, "step_seconds": 1.0})).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("batch was 4 and is 8"), "{error}");
        let integer = json!({"speed": [{"batch": 1, "integer_seconds": 1e-3, "float_seconds": 2e-3}]});
        assert_eq!(rows(&integer)[1].0, "float, batch 1");
    }
}
