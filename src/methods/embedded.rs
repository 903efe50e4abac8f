//! The recipes that come with the program (`recipes/*.toml`), and reading of others.

use super::recipe::Recipe;
use crate::{Error, Result};
use std::path::Path;

/// Embedded recipes by name.
const EMBEDDED: &[(&str, &str)] = &[
    ("best", include_str!("../../recipes/best.toml")),
    ("gdfq", include_str!("../../recipes/gdfq.toml")),
    ("dsg", include_str!("../../recipes/dsg.toml")),
    ("clusterq", include_str!("../../recipes/clusterq.toml")),
    ("acq", include_str!("../../recipes/acq.toml")),
    ("acq-journal", include_str!("../../recipes/acq-journal.toml")),
    ("lrq", include_str!("../../recipes/lrq.toml")),
    ("adadfq", include_str!("../../recipes/adadfq.toml")),
    ("kmdfq", include_str!("../../recipes/kmdfq.toml")),
    ("ait", include_str!("../../recipes/ait.toml")),
    ("intraq", include_str!("../../recipes/intraq.toml")),
    ("hast", include_str!("../../recipes/hast.toml")),
    ("synq", include_str!("../../recipes/synq.toml")),
    ("zeroq", include_str!("../../recipes/zeroq.toml")),
    ("genie", include_str!("../../recipes/genie.toml")),
    ("dsg-ptq", include_str!("../../recipes/dsg-ptq.toml")),
];

impl Recipe {
    /// Names of the embedded recipes.
    pub fn names() -> Vec<&'static str> {
        EMBEDDED.iter().map(|(n, _)| *n).collect()
    }

    /// An embedded recipe as it was written, comments included.
    pub fn text(name: &str) -> Result<&'static str> {
        EMBEDDED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).ok_or_else(|| unknown(name))
    }

    /// An embedded recipe by name, or a TOML file by path.
    pub fn load(method: &str) -> Result<Self> {
        if let Ok(text) = Self::text(method) {
            return Self::parse(text, method);
        }
        let path = Path::new(method);
        if path.extension().is_some_and(|e| e == "toml") {
            let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
            return Self::parse(&text, method);
        }
        Err(unknown(method))
    }

    /// Parses TOML text; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| Error::config(format!("recipe {origin}"), e.to_string()))
    }
}

fn unknown(method: &str) -> Error {
    let names = Recipe::names();
    let nearest = names.iter().max_by(|a, b| strsim::jaro(a, method).total_cmp(&strsim::jaro(b, method)));
    let hint =
        nearest.filter(|n| strsim::jaro(n, method) > 0.7).map_or(String::new(), |n| format!("; did you mean '{n}'?"));
    let known = names.join(", ");
    Error::config("--method", format!("'{method}' is not known{hint} Choose one of {known}, or a .toml file"))
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
}
