//! A recipe: one TOML file, every key checked, unknown keys refused. `recipes/*.toml` are embedded in the binary.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything that decides what a quantization run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    pub wbits: u8,
    pub abits: u8,
    /// Weight bits of the first and last layer, when they differ from `wbits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bits: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_bits: Option<u8>,
    pub batch: usize,
    /// All iterations, warm-up included.
    pub iters: u64,
    /// Iterations before the student is first stepped.
    pub warmup: u64,
    pub eval_every: u64,
    pub seed: u64,
    pub generator: GeneratorRecipe,
    pub images: ImagesRecipe,
    pub ranges: RangesRecipe,
    pub student: StudentRecipe,
}

/// The generator and its loss `ce * CE(T(x), y) + bn_stats * BNS` (GDFQ: 1 and 0.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GeneratorRecipe {
    pub latent: usize,
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub ce: f32,
    pub bn_stats: f32,
    /// After warm-up the generator is stepped in every `every`-th iteration; 0 leaves it as it is.
    pub every: u64,
}

/// Stored images, optimised directly through the teacher (ours, after ZeroQ: images are the parameters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagesRecipe {
    /// How many; 0 for none. Made after warm-up, in batches of `batch`.
    pub count: usize,
    /// Adam iterations per batch.
    pub iters: u64,
    pub lr: f32,
    pub ce: f32,
    pub bn_stats: f32,
    /// Start from the generator's images instead of normal noise.
    pub from_generator: bool,
    /// Fraction of student batches drawn from them, in 0..=1.
    pub share: f32,
}

/// Where quantizer ranges come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangesRecipe {
    pub weights: WeightRanges,
    pub activations: ActivationRanges,
    pub ema: EmaName,
    /// Calibration batches after warm-up (0: ranges are tracked during warm-up, as GDFQ does).
    pub batches: u64,
    /// Train the ranges (LSQ) with Adam at this rate; 0 keeps them.
    pub lr: f32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRanges {
    /// Minimum and maximum of the current weight in every forward pass (GDFQ).
    MinMax,
    /// Searched once for least squared error.
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationRanges {
    MinMax,
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmaName {
    Textbook,
    /// The released code's compounding bias correction.
    Legacy,
}

/// The student's loss `ce * CE(S(x), y) + kl * T^2 KL(teacher || student)` and optimizer (SGD, Nesterov).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentRecipe {
    pub lr: f32,
    pub schedule: StudentSchedule,
    pub momentum: f32,
    pub weight_decay: f32,
    pub ce: f32,
    pub kl: f32,
    pub temperature: f32,
    pub kl_reduction: KlReductionName,
    pub ste: SteName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentSchedule {
    Constant,
    /// Half a cosine from `lr` to 0 over the student's iterations.
    Cosine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlReductionName {
    BatchMean,
    /// Also divided by the number of classes (PyTorch's default, GDFQ).
    ElementMean,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SteName {
    Identity,
    Clipped,
    Lsq,
}

/// Embedded recipes by name.
const EMBEDDED: &[(&str, &str)] = &[
    ("default", include_str!("../../recipes/default.toml")),
    ("gdfq", include_str!("../../recipes/gdfq.toml")),
];

impl Recipe {
    /// Names of the embedded recipes.
    pub fn names() -> Vec<&'static str> {
        EMBEDDED.iter().map(|(n, _)| *n).collect()
    }

    /// An embedded recipe by name, or a TOML file by path.
    pub fn load(method: &str) -> Result<Self> {
        if let Some((_, text)) = EMBEDDED.iter().find(|(n, _)| *n == method) {
            return Self::parse(text, method);
        }
        let path = Path::new(method);
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
            return Self::parse(&text, method);
        }
        let known = Self::names().join(", ");
        Err(Error::config("--method", format!("'{method}' is not known; choose one of {known}, or a .toml file")))
    }

    /// Parses TOML text; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::config(format!("recipe {origin}"), e.to_string()))
    }

    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is plain data")
    }

    /// Sets `key.path=value` (TOML value syntax; bare words are taken as strings).
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let fail = |detail: String| Error::config(format!("--set {assignment}"), detail);
        let (key, value) = assignment.split_once('=').ok_or_else(|| fail("expected KEY=VALUE".into()))?;
        let value = value.trim();
        let parsed: toml::Table = toml::from_str(&format!("v = {value}"))
            .or_else(|_| toml::from_str(&format!("v = {value:?}")))
            .map_err(|e| fail(e.to_string()))?;
        let mut tree = toml::Table::try_from(&*self).expect("a recipe is plain data");
        let mut at = &mut tree;
        let parts: Vec<&str> = key.trim().split('.').collect();
        for part in &parts[..parts.len() - 1] {
            at = at
                .get_mut(*part)
                .and_then(toml::Value::as_table_mut)
                .ok_or_else(|| fail(format!("no section '{part}'; see `ghostbit quantize --show-recipe`")))?;
        }
        let last = parts[parts.len() - 1];
        let mut new = parsed["v"].clone();
        match at.get(last) {
            // An integer where a float is meant (`lr=1`) is a float.
            Some(toml::Value::Float(_)) if new.is_integer() => {
                new = toml::Value::Float(new.as_integer().unwrap_or(0) as f64);
            }
            Some(_) => {}
            None if ["first_bits", "last_bits"].contains(&last) && parts.len() == 1 => {}
            None => {
                let known: Vec<&String> = at.keys().collect();
                return Err(fail(format!("no key '{last}'; known here: {known:?}")));
            }
        }
        at.insert(last.to_string(), new);
        *self = tree.try_into().map_err(|e: toml::de::Error| fail(e.to_string()))?;
        Ok(())
    }

    /// Refuses what cannot work, naming the key.
    pub fn validate(&self) -> Result<()> {
        let positive = |key: &str, ok: bool, what: &str| if ok { Ok(()) } else { Err(Error::config(key, what)) };
        let finite = |key: &str, v: f32| {
            if v.is_finite() && v >= 0.0 {
                Ok(())
            } else {
                Err(Error::config(key, format!("{v} must be finite and not negative")))
            }
        };
        positive("batch", self.batch >= 2, "must be at least 2 (batch statistics need more than one sample)")?;
        positive("iters", self.iters >= 1, "must be at least 1")?;
        positive("warmup", self.warmup <= self.iters, "cannot exceed iters")?;
        positive("eval_every", self.eval_every >= 1, "must be at least 1")?;
        positive("generator.latent", self.generator.latent >= 1, "must be at least 1")?;
        positive("images.share", (0.0..=1.0).contains(&self.images.share), "must lie in 0..=1")?;
        positive(
            "images.share",
            self.images.share == 0.0 || self.images.count > 0,
            "asks for stored images, but images.count is 0",
        )?;
        positive("student.temperature", self.student.temperature > 0.0, "must be positive")?;
        positive(
            "ranges.batches",
            self.ranges.batches > 0 || (self.ranges.activations == ActivationRanges::MinMax && self.warmup > 0),
            "0 means tracking during warm-up, which needs warmup > 0 and activations = \"min_max\"",
        )?;
        positive(
            "ranges.lr",
            self.ranges.lr == 0.0 || (self.student.ste == SteName::Lsq && self.ranges.weights == WeightRanges::Search),
            "learning ranges needs student.ste = \"lsq\" and ranges.weights = \"search\"",
        )?;
        for (key, v) in [
            ("generator.lr", self.generator.lr),
            ("generator.ce", self.generator.ce),
            ("generator.bn_stats", self.generator.bn_stats),
            ("images.lr", self.images.lr),
            ("images.ce", self.images.ce),
            ("images.bn_stats", self.images.bn_stats),
            ("ranges.lr", self.ranges.lr),
            ("student.lr", self.student.lr),
            ("student.ce", self.student.ce),
            ("student.kl", self.student.kl),
            ("student.weight_decay", self.student.weight_decay),
        ] {
            finite(key, v)?;
        }
        crate::graph::passes::quantize(&crate::graph::Graph::probe(), self.quantize_spec()).map(|_| ())
    }

    /// The bit widths as the quantize pass takes them.
    pub fn quantize_spec(&self) -> crate::graph::passes::QuantizeSpec {
        crate::graph::passes::QuantizeSpec {
            wbits: self.wbits,
            abits: self.abits,
            first_bits: self.first_bits,
            last_bits: self.last_bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_recipes_are_valid() {
        for name in Recipe::names() {
            Recipe::load(name).unwrap().validate().unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn set_changes_one_key_and_refuses_others() {
        let mut r = Recipe::load("gdfq").unwrap();
        r.set("student.lr=1").unwrap();
        r.set("ranges.ema=legacy").unwrap();
        assert_eq!((r.student.lr, r.ranges.ema), (1.0, EmaName::Legacy));
        for bad in ["student.lrr=1", "nothing.lr=1", "student.lr=fast", "batch=-3", "student.lr"] {
            assert!(r.clone().set(bad).is_err(), "{bad} was accepted");
        }
        r.set("wbits=9").unwrap();
        assert!(r.validate().unwrap_err().to_string().contains("2 to 8"));
    }
}
