//! What a sweep found: a line per run as it ends, a table per configuration.

use super::super::job::{RunConfig, short};
use super::workers::End;
use crate::report::table::Table;
use serde_json::{Value, json};

/// Figures of a run: key in its summary.json, heading.
const FIGURES: [(&str, &str); 4] =
    [("fp_top1", "full precision"), ("ptq_top1", "calibrated"), ("last_top1", "last"), ("selected_top1", "selected")];

/// A run's line in summary.jsonl.
pub fn line(config: &RunConfig, end: &End, seconds: f64) -> Value {
    let r = &config.recipe;
    let mut row = json!({"run": config.name(), "method": r.name, "wbits": r.wbits, "abits": r.abits, "seed": r.seed});
    let (state, document) = match end {
        End::Finished(d) => ("finished", Some(d)),
        End::Kept(d) => ("kept", Some(d)),
        End::Failed(e) => {
            row["error"] = json!(e);
            ("failed", None)
        }
        End::Interrupted(e) => {
            row["error"] = json!(e);
            ("interrupted", None)
        }
    };
    row["state"] = json!(state);
    row["seconds"] =
        if state == "kept" { document.map_or(Value::Null, |d| d["seconds"].clone()) } else { json!(seconds) };
    for (key, _) in FIGURES {
        row[key] = document.map_or(Value::Null, |d| d[key].clone());
    }
    row
}

/// The same for people.
pub fn said(config: &RunConfig, end: &End, seconds: f64) -> String {
    let name = config.name();
    match end {
        End::Finished(d) | End::Kept(d) => {
            let top1 = d["selected_top1"].as_object().into_iter().flatten();
            let top1: Vec<String> = top1.map(|(_, v)| format!("{:.2} %", v.as_f64().unwrap_or(f64::NAN))).collect();
            let how = if matches!(end, End::Kept(_)) { "finished before".into() } else { format!("{seconds:.0} s") };
            format!("{name}: selected {} ({how})", top1.join("  "))
        }
        End::Failed(e) => format!("{name}: failed: {e}"),
        End::Interrupted(e) => format!("{name}: {e}"),
    }
}

/// Mean and spread of the seeds of one configuration, by test set.
pub struct Configuration {
    method: String,
    bits: [u8; 2],
    seeds: Vec<u64>,
    /// Test set, and the values of each of [`FIGURES`].
    sets: Vec<(String, [Vec<f64>; 4])>,
}

/// Configurations in the order of the runs; those without a finished run are left out.
pub fn configurations(runs: &[RunConfig], ends: &[Option<End>]) -> Vec<Configuration> {
    let mut found: Vec<Configuration> = Vec::new();
    for (run, end) in runs.iter().zip(ends) {
        let Some(End::Finished(document) | End::Kept(document)) = end else { continue };
        let (r, bits) = (&run.recipe, [run.recipe.wbits, run.recipe.abits]);
        let at = found.iter().position(|c| c.method == r.name && c.bits == bits).unwrap_or_else(|| {
            found.push(Configuration { method: r.name.clone(), bits, seeds: Vec::new(), sets: Vec::new() });
            found.len() - 1
        });
        found[at].add(r.seed, document);
    }
    found
}

impl Configuration {
    fn add(&mut self, seed: u64, document: &Value) {
        self.seeds.push(seed);
        let sets: Vec<&String> = document["fp_top1"].as_object().into_iter().flat_map(|o| o.keys()).collect();
        for set in sets {
            let at = self.sets.iter().position(|s| &s.0 == set).unwrap_or_else(|| {
                self.sets.push((set.clone(), Default::default()));
                self.sets.len() - 1
            });
            for (values, (key, _)) in self.sets[at].1.iter_mut().zip(FIGURES) {
                values.extend(document[key][set].as_f64());
            }
        }
    }

    pub fn to_json(&self) -> Value {
        let of_set = |figures: &[Vec<f64>; 4]| -> Value {
            figures.iter().zip(FIGURES).map(|(v, (key, _))| (key.to_string(), statistics(v))).collect()
        };
        let sets: Value = self.sets.iter().map(|(name, f)| (name.clone(), of_set(f))).collect();
        json!({"method": self.method, "wbits": self.bits[0], "abits": self.bits[1], "seeds": self.seeds, "top1": sets})
    }
}

/// One row per configuration and test set: top-1 in percent, mean and standard deviation over seeds.
pub fn table(configurations: &[Configuration]) -> Table {
    let heading = ["configuration", "test set", "seeds"].into_iter().chain(FIGURES.map(|f| f.1));
    let mut table = Table::new(heading);
    for c in configurations {
        for (set, figures) in &c.sets {
            let [w, a] = c.bits;
            let mut row = vec![format!("{} W{w}A{a}", c.method), short(set).to_string(), c.seeds.len().to_string()];
            row.extend(figures.iter().map(|v| match (mean(v), deviation(v)) {
                (None, _) => "-".into(),
                (Some(m), None) => format!("{m:.2}"),
                (Some(m), Some(d)) => format!("{m:.2} ± {d:.2}"),
            }));
            table.row(row);
        }
    }
    table
}

fn mean(v: &[f64]) -> Option<f64> {
    (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64)
}

/// Of the sample; of two values at least.
fn deviation(v: &[f64]) -> Option<f64> {
    let m = mean(v).filter(|_| v.len() > 1)?;
    Some((v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (v.len() - 1) as f64).sqrt())
}

fn statistics(v: &[f64]) -> Value {
    let ends = [v.iter().copied().reduce(f64::min), v.iter().copied().reduce(f64::max)];
    json!({"mean": mean(v), "standard_deviation": deviation(v), "min": ends[0], "max": ends[1]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_of_the_sample() {
        assert_eq!((mean(&[]), deviation(&[1.0])), (None, None));
        assert_eq!((mean(&[1.0, 2.0, 3.0]), deviation(&[1.0, 2.0, 3.0])), (Some(2.0), Some(1.0)));
    }
}
