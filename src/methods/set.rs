//! `--set key.path=value`: one key of a recipe, checked against everything that a recipe may contain.

use super::loss::{GeneratorLoss, StudentLoss};
use super::recipe::{ImagesRecipe, Recipe};
use crate::{Error, Result};
use toml::{Table, Value};

impl Recipe {
    /// Sets `key.path=value` (TOML value syntax; bare words are taken as strings). A table that the recipe lacks, such
    /// as `generator_loss.pair`, starts from its defaults.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let fail = |detail: String| Error::config(format!("--set {assignment}"), detail);
        let (key, value) = assignment.split_once('=').ok_or_else(|| fail("expected KEY=VALUE".into()))?;
        let value = value.trim();
        // The rest is one name, which may hold dots.
        if let Some(node) = key.trim().strip_prefix("layer_bits.") {
            let bits = value.parse().map_err(|_| fail(format!("'{value}' is not a number of bits")))?;
            self.layer_bits.insert(node.into(), bits);
            return Ok(());
        }
        let parsed: Table = toml::from_str(&format!("v = {value}"))
            .or_else(|_| toml::from_str(&format!("v = {value:?}")))
            .map_err(|e| fail(e.to_string()))?;
        let mut new = parsed.get("v").cloned().ok_or_else(|| fail("expected one value".into()))?;

        // Plain data, but for numbers beyond TOML's 64 bits with sign.
        let table = |r: &Self| Table::try_from(r).map_err(|e| fail(e.to_string()));
        let (mut tree, full, fresh) = (table(self)?, table(&self.full())?, table(&self.with_absent_tables())?);
        let (mut at, mut known, mut start) = (&mut tree, &full, Some(&fresh));
        let parts: Vec<&str> = key.trim().split('.').collect();
        let (last, path) = parts.split_last().expect("split gives one part at least");
        for part in path {
            let Some(Value::Table(below)) = known.get(*part) else {
                return Err(fail(unknown("section", part, known)));
            };
            known = below;
            start = start.and_then(|s| s.get(*part)).and_then(Value::as_table);
            let entry = at.entry(*part).or_insert_with(|| Value::Table(start.unwrap_or(below).clone()));
            at = entry.as_table_mut().expect("same structure as the full recipe");
        }
        match known.get(*last) {
            None => return Err(fail(unknown("key", last, known))),
            Some(Value::Table(below)) => {
                let keys: Vec<&String> = below.keys().collect();
                return Err(fail(format!("'{last}' is a section; set one of its keys {keys:?}")));
            }
            // An integer where a float is meant (`lr=1`) is a float.
            Some(Value::Float(_)) if new.is_integer() => {
                new = Value::Float(new.as_integer().expect("checked") as f64);
            }
            Some(_) => {}
        }
        at.insert((*last).to_string(), new);
        *self = tree.try_into().map_err(|e: toml::de::Error| fail(e.to_string()))?;
        Ok(())
    }

    /// This recipe with every optional table, each as it is without a word about it.
    fn with_absent_tables(&self) -> Self {
        let mut full = self.full();
        full.generator_loss = self.generator_loss.clone();
        full.student_loss = self.student_loss.clone();
        if let Some(images) = &mut full.images {
            images.loss = self.images.as_ref().map_or_else(|| ImagesRecipe::default().loss, |i| i.loss.clone());
        }
        full
    }

    /// This recipe with every optional part present: the schema of [`Recipe::set`].
    fn full(&self) -> Self {
        let mut r = self.clone();
        for bits in [&mut r.first_bits, &mut r.last_bits, &mut r.input_bits] {
            *bits = bits.or(Some(8));
        }
        (r.generator_loss, r.student_loss) = (GeneratorLoss::full(), StudentLoss::full());
        r.student.inundation = Some(r.student.inundation.take().unwrap_or_default());
        let mut images = ImagesRecipe { count: 0, share: 0.0, ..r.images.take().unwrap_or_default() };
        images.loss = GeneratorLoss::full();
        r.images = Some(images);
        r.reconstruction = Some(r.reconstruction.unwrap_or_default());
        r
    }
}

fn unknown(what: &str, name: &str, known: &Table) -> String {
    let nearest = known.keys().max_by(|a, b| strsim::jaro(a, name).total_cmp(&strsim::jaro(b, name)));
    let keys: Vec<&String> = known.keys().collect();
    match nearest {
        Some(n) if strsim::jaro(n, name) > 0.7 => {
            format!("no {what} '{name}'; did you mean '{n}'? known here: {keys:?}")
        }
        _ => format!("no {what} '{name}'; known here: {keys:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::recipe::EmaName;
    use super::*;

    #[test]
    fn set_changes_one_key_and_refuses_others() {
        let mut r = Recipe::load("gdfq").unwrap();
        r.set("student.lr=1").unwrap();
        r.set("ranges.ema=legacy").unwrap();
        assert_eq!((r.student.lr, r.ranges.ema), (1.0, EmaName::Legacy));
        for bad in ["student.lrr=1", "nothing.lr=1", "student.lr=fast", "batch=-3", "student.lr", "student=1"] {
            assert!(r.clone().set(bad).is_err(), "{bad} was accepted");
        }
        r.set("layer_bits.layer1.0.conv1=6").unwrap();
        assert_eq!(r.quantize_spec().layer_bits["layer1.0.conv1"], 6);
        assert_eq!(Recipe::parse(&r.to_toml(), "written").unwrap(), r);
        assert!(r.clone().set("layer_bits.layer1.0.conv1=many").is_err());
        r.set("wbits=9").unwrap();
        assert!(r.validate().unwrap_err().to_string().contains("2 to 8"));
    }

    #[test]
    fn set_brings_in_an_absent_table_with_its_defaults() {
        let mut r = Recipe::load("gdfq").unwrap();
        r.images = None;
        r.set("images.count=64").unwrap();
        let images = r.images.unwrap();
        assert_eq!((images.count, images.share), (64, 0.0));
        assert_eq!(images.loss, ImagesRecipe::default().loss);
        let e = Recipe::load("gdfq").unwrap().set("generator_loss.bn_stat.weight=1").unwrap_err().to_string();
        assert!(e.contains("did you mean 'bn_stats'"), "{e}");
    }
}
