//! The grid: methods x bits x seeds, and what all runs have in common; from a TOML file, from flags, or both.

use super::super::job::RunConfig;
use super::super::network::NetworkArgs;
use super::super::quantize::DEFAULT_METHOD;
use crate::methods::Recipe;
use crate::{Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Most runs of one sweep: a mistyped range of seeds should not fill a disk.
const MOST: usize = 10_000;

/// SPEC.toml. Paths are relative to the current folder, as in flags.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    arch: Option<String>,
    model: Option<PathBuf>,
    classes: Option<usize>,
    mean: Option<Vec<f32>>,
    std: Option<Vec<f32>>,
    output: Option<String>,
    input_size: Option<Vec<usize>>,
    images: Option<String>,
    #[serde(default)]
    eval: Vec<String>,
    method: Option<toml::Value>,
    bits: Option<toml::Value>,
    seeds: Option<toml::Value>,
    #[serde(default)]
    set: Vec<String>,
}

/// What flags say; where they say nothing the file counts.
pub struct Flags<'a> {
    pub network: &'a NetworkArgs,
    pub eval: &'a [String],
    pub images: Option<&'a str>,
    pub method: &'a [String],
    pub bits: &'a [String],
    pub seeds: &'a [String],
    pub set: &'a [String],
}

/// All runs, and the network that they share.
pub struct Grid {
    pub network: NetworkArgs,
    pub eval: Vec<String>,
    pub runs: Vec<RunConfig>,
    /// No method was named: the default one is to be fitted to the network. `set` has what was asked for.
    pub default: bool,
    pub set: Vec<String>,
}

impl Grid {
    /// Methods outermost, seeds innermost. Errors name the file's key or the flag; all recipes are checked.
    pub fn new(spec: Option<&Path>, flags: &Flags) -> Result<Self> {
        let file = match spec {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
                toml::from_str(&text).map_err(|e| Error::file(path, e))?
            }
        };
        let list = |flag: &[String], key: &str, value: &Option<toml::Value>| match (flag, value) {
            ([], None) => Ok(Vec::new()),
            ([], Some(v)) => words(key, v),
            (words, _) => Ok(words.to_vec()),
        };
        let network = NetworkArgs {
            arch: flags.network.arch.clone().or(file.arch),
            model: flags.network.model.clone().or(file.model),
            classes: flags.network.classes.or(file.classes),
            mean: flags.network.mean.clone().or(file.mean),
            std: flags.network.std.clone().or(file.std),
            output: flags.network.output.clone().or(file.output),
            input_size: flags.network.input_size.clone().or(file.input_size),
        };
        let eval = if flags.eval.is_empty() { file.eval } else { flags.eval.to_vec() };
        let mut methods = list(flags.method, "method", &file.method)?;
        let default = methods.is_empty();
        if default {
            methods.push(DEFAULT_METHOD.into());
        }
        let images = flags.images.map(str::to_string).or(file.images);
        let bits = list(flags.bits, "bits", &file.bits)?;
        let bits = or_the_recipe_s(bits.iter().map(|b| widths(b)).collect::<Result<_>>()?);
        let all: Vec<Vec<u64>> =
            list(flags.seeds, "seeds", &file.seeds)?.iter().map(|s| seeds(s)).collect::<Result<_>>()?;
        let seeds = or_the_recipe_s(all.concat());
        let set: Vec<&String> = file.set.iter().chain(flags.set).collect();
        let count = methods.len() * bits.len() * seeds.len();
        if count > MOST {
            return Err(Error::config("sweep", format!("{count} runs are more than {MOST}")));
        }
        let mut runs: Vec<RunConfig> = Vec::with_capacity(count);
        for method in &methods {
            let mut recipe = Recipe::load(method)?;
            if images.is_some() {
                recipe.take_images();
            }
            set.iter().try_for_each(|s| recipe.set(s))?;
            for bits in &bits {
                for seed in &seeds {
                    let mut recipe = recipe.clone();
                    (recipe.wbits, recipe.abits) = bits.unwrap_or((recipe.wbits, recipe.abits));
                    recipe.seed = seed.unwrap_or(recipe.seed);
                    let run = RunConfig::new(&network, &eval, images.as_deref(), recipe)?;
                    if runs.iter().any(|r| r.name() == run.name()) {
                        let detail = format!("two runs would be called {}; name each once", run.name());
                        return Err(Error::config("sweep", detail));
                    }
                    runs.push(run);
                }
            }
        }
        let set = set.into_iter().cloned().collect();
        Ok(Self { network, eval, runs, default, set })
    }
}

/// One entry that changes nothing where there is none.
fn or_the_recipe_s<T>(list: Vec<T>) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.into_iter().map(Some).collect() }
}

/// A string of words with commas between them, a number, or an array of both.
fn words(key: &str, value: &toml::Value) -> Result<Vec<String>> {
    match value {
        toml::Value::String(s) => Ok(s.split(',').map(|w| w.trim().to_string()).collect()),
        toml::Value::Integer(i) => Ok(vec![i.to_string()]),
        toml::Value::Array(a) => Ok(a.iter().map(|v| words(key, v)).collect::<Result<Vec<_>>>()?.concat()),
        _ => Err(Error::config(key, format!("{value} is neither text, nor a number, nor a list of them"))),
    }
}

/// `4a4` or `w4a4`: bits of weights and of activations.
fn widths(text: &str) -> Result<(u8, u8)> {
    let lower = text.trim().to_ascii_lowercase();
    let parts = lower.strip_prefix('w').unwrap_or(&lower).split_once('a');
    let parsed = parts.and_then(|(w, a)| Some((w.parse().ok()?, a.parse().ok()?)));
    parsed.ok_or_else(|| Error::config("--bits", format!("'{text}' is not of the form 4a4 (weights, activations)")))
}

/// `7`, or `1..3`: 1, 2 and 3.
fn seeds(text: &str) -> Result<Vec<u64>> {
    let fail = |why: &str| Error::config("--seeds", format!("'{text}' {why}"));
    let number = |s: &str| s.trim().parse::<u64>().map_err(|_| fail("is not of the form 7 or 1..3"));
    let Some((first, last)) = text.split_once("..") else { return Ok(vec![number(text)?]) };
    let (first, last) = (number(first)?, number(last)?);
    if last < first || last - first >= MOST as u64 {
        return Err(fail("holds no seed, or too many"));
    }
    Ok((first..=last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_seeds_are_read() {
        assert_eq!(widths("4a4").unwrap(), (4, 4));
        assert_eq!(widths(" W3A8").unwrap(), (3, 8));
        assert_eq!(seeds("7").unwrap(), [7]);
        assert_eq!(seeds("1..3").unwrap(), [1, 2, 3]);
        for bad in ["4", "a4", "4a", "4x4", ""] {
            assert!(widths(bad).unwrap_err().to_string().contains("--bits"), "{bad}");
        }
        for bad in ["", "x", "3..1", "1..", "-1", "0..99999999999999999999"] {
            assert!(seeds(bad).unwrap_err().to_string().contains("--seeds"), "{bad}");
        }
    }

    #[test]
    fn flags_come_before_the_file_and_settings_add_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spec.toml");
        let text =
            "method = ['gdfq', 'best']\nbits = '4a4,3a3'\nseeds = [1, '3..4']\nset = ['batch=8']\neval = ['x']\n";
        std::fs::write(&path, text).unwrap();
        let network = NetworkArgs::default();
        let none = Flags { network: &network, eval: &[], images: None, method: &[], bits: &[], seeds: &[], set: &[] };
        let grid = Grid::new(Some(&path), &none).unwrap();
        let names: Vec<String> = grid.runs.iter().map(RunConfig::name).collect();
        assert_eq!(names.len(), 12);
        assert_eq!(
            names[..4].join(" "),
            ["w4a4-s1", "w4a4-s3", "w4a4-s4", "w3a3-s1"].map(|n| format!("cifar-resnet20-gdfq-{n}")).join(" ")
        );
        assert!(grid.runs.iter().all(|r| r.recipe.batch == 8 && r.eval == ["x"]));

        let (seed, set) = (["5".to_string()], ["iters=7".to_string(), "warmup=1".to_string()]);
        let grid = Grid::new(Some(&path), &Flags { seeds: &seed, set: &set, ..none }).unwrap();
        assert_eq!(grid.runs.len(), 4);
        assert!(grid.runs.iter().all(|r| (r.recipe.seed, r.recipe.iters, r.recipe.batch) == (5, 7, 8)));

        let twice = ["1".to_string(), "1..2".to_string()];
        let error = |r: Result<Grid>| r.map(|_| ()).unwrap_err().to_string();
        let found = error(Grid::new(
            None,
            &Flags { seeds: &twice, network: &network, eval: &[], images: None, method: &[], bits: &[], set: &[] },
        ));
        assert!(found.contains("two runs") && found.contains("-s1"), "{found}");
        std::fs::write(&path, "methods = 'gdfq'").unwrap();
        let found = error(Grid::new(
            Some(&path),
            &Flags { seeds: &[], network: &network, eval: &[], images: None, method: &[], bits: &[], set: &[] },
        ));
        assert!(found.contains("spec.toml") && found.contains("methods"), "{found}");
    }
}
