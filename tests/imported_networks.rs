//! Files of the networks that people have, and small files of one obstacle each: float logits beside ONNX Runtime's.
//!
//! `tests/networks/make_twins.py` and `make_obstacles.py` write the files. Every test reads all of its files and reports
//! all faults together.

use flate2::read::GzDecoder;
use ghostbit::autograd::{Tape, Var};
use ghostbit::device::Device;
use ghostbit::graph::{Forward, Network, Taps};
use ghostbit::models::onnx::Imported;
use ghostbit::tensor::{Shape, Tensor};
use rayon::prelude::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Largest distance of a logit, as a part of the spread of all.
const NEAR: f64 = 1e-4;

/// Traces of Rust's `Debug` that no message may show.
const DEBUG: [&str; 8] = ["Some(", "None", "Fixed(", "Ok(", "Err(", "NodeKind", " { ", "\\\""];

/// A file and what it must give.
#[derive(Deserialize)]
struct Record {
    network: String,
    exporter: String,
    file: String,
    /// `n c h w`, whatever the file's layout.
    images: [usize; 4],
    seed: u32,
    #[serde(default)]
    logits: Vec<Vec<f32>>,
    /// Must be refused with these words.
    refuse: Option<String>,
    /// May be refused with these words.
    may_refuse: Option<String>,
}

/// Draws of `images.py`: multiples of 1/128 in [-1, 1).
fn draws(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(1664525).wrapping_add(1013904223);
        (state >> 24) as f32 / 128.0 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Images of `images.py` as `[n, h, w, c]`: blocks of a 4 x 4 grid, and half as much per pixel.
fn images(seed: u32, [n, c, h, w]: [usize; 4]) -> Tensor {
    let (blocks, fine) = (draws(seed, n * c * 16), draws(seed + 1, n * c * h * w));
    let mut values = vec![0.0; n * h * w * c];
    for i in 0..n * c {
        for y in 0..h {
            for x in 0..w {
                let block = blocks[i * 16 + (y * 4 / h) * 4 + x * 4 / w];
                values[((i / c * h + y) * w + x) * c + i % c] = block + fine[(i * h + y) * w + x] / 2.0;
            }
        }
    }
    Tensor::from_slice(&Device::cpu(), Shape::new(&[n, h, w, c]), &values).unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks")
}

fn unzip(path: &Path) -> Vec<u8> {
    let mut data = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut data).unwrap();
    data
}

/// Files of a tar archive by name.
fn untar(data: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let text = |field: &[u8]| String::from_utf8(field.split(|b| *b == 0).next().unwrap().to_vec()).unwrap();
    let mut files = BTreeMap::new();
    let mut at = 0;
    while at + 512 <= data.len() && data[at] != 0 {
        let size = usize::from_str_radix(text(&data[at + 124..at + 136]).trim(), 8).unwrap();
        files.insert(text(&data[at..at + 100]), data[at + 512..at + 512 + size].to_vec());
        at += 512 + size.div_ceil(512) * 512;
    }
    files
}

fn logits(mut network: Network, record: &Record) -> Result<Vec<f32>, String> {
    let x = Var::constant(images(record.seed, record.images));
    let how = Forward { float: true, ..Forward::eval() };
    let out = network.forward(&mut Tape::inference(&Device::cpu()), &[x], how, &Taps::default());
    out.and_then(|o| o.output.value.to_vec::<f32>()).map_err(|e| format!("forward: {e}"))
}

/// Why `found` differs from the record's logits.
fn compare(found: &[f32], record: &Record) -> Result<(), String> {
    let want: Vec<f64> = record.logits.iter().flatten().map(|v| f64::from(*v)).collect();
    if found.len() != want.len() {
        return Err(format!("{} logits, expected {}", found.len(), want.len()));
    }
    let mean = want.iter().sum::<f64>() / want.len() as f64;
    let spread = (want.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / want.len() as f64).sqrt();
    let apart = found.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs());
    // Not f64::max, which passes NaN over.
    let largest = apart.fold(0.0, |a: f64, b| if a.is_nan() || b <= a { a } else { b });
    if largest <= NEAR * spread {
        Ok(())
    } else {
        Err(format!("logits are {:.1e} of their spread apart", largest / spread))
    }
}

/// Imports and compares one file; `Err` says what is wrong with the outcome.
fn check(record: &Record, import: impl FnOnce() -> Result<Network, String>) -> Result<(), String> {
    let all = || {
        let found = import().and_then(|network| logits(network, record));
        match (found, record.refuse.as_deref(), record.may_refuse.as_deref()) {
            (Err(message), refuse, may) => {
                if let Some(word) = DEBUG.iter().find(|word| message.contains(**word)) {
                    return Err(format!("shows Rust's Debug ('{word}'): {message}"));
                }
                match refuse.or(may) {
                    Some(words) => match words.split(", ").find(|word| !message.to_lowercase().contains(word)) {
                        None => Ok(()),
                        Some(word) => Err(format!("refused without the word '{word}': {message}")),
                    },
                    None => Err(message),
                }
            }
            (Ok(_), Some(_), _) => Err("is taken, but must be refused".into()),
            (Ok(found), None, _) => compare(&found, record),
        }
    };
    catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        Err(format!("PANIC: {}", message.unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap_or(&"").to_string())))
    })
}

fn report(records: &[Record], outcomes: &[Result<(), String>]) {
    let faults: Vec<String> = records
        .iter()
        .zip(outcomes)
        .filter_map(|(r, outcome)| {
            let message = outcome.as_ref().err()?.replace('\n', " ");
            Some(format!("{:32} {:15} {}", r.network, r.exporter, message.chars().take(220).collect::<String>()))
        })
        .collect();
    assert!(!records.is_empty(), "no files");
    assert!(faults.is_empty(), "{} of {} files at fault:\n{}", faults.len(), records.len(), faults.join("\n"));
}

fn twins() -> Vec<Record> {
    serde_json::from_slice(&std::fs::read(folder().join("twins/twins.json")).unwrap()).unwrap()
}

#[test]
fn narrow_twins_give_the_logits_of_onnxruntime() {
    let records = twins();
    let run = |r: &Record| {
        check(r, || {
            let data = unzip(&folder().join("twins").join(&r.file));
            let network = Imported::parse(&data, &r.network)?;
            network.network(&Device::cpu(), Path::new(&r.file)).map_err(|e| e.to_string())
        })
    };
    let outcomes: Vec<_> = records.par_iter().map(run).collect();
    report(&records, &outcomes);
}

/// The records that `wanted` takes, each with its outcome.
fn obstacles(wanted: impl Fn(&Record) -> bool) -> (Vec<Record>, Vec<Result<(), String>>) {
    let mut files = untar(&unzip(&folder().join("obstacles.tar.gz")));
    let records: Vec<Record> = serde_json::from_slice(&files.remove("obstacles.json").unwrap()).unwrap();
    let records: Vec<Record> = records.into_iter().filter(wanted).collect();
    let temporary = tempfile::tempdir().unwrap();
    // A file that data above the folder could be read from, if that were allowed.
    std::fs::write(temporary.path().join("above.bin"), [0; 1 << 16]).unwrap();
    let inner = temporary.path().join("models");
    std::fs::create_dir(&inner).unwrap();
    for (name, data) in &files {
        std::fs::write(inner.join(name), data).unwrap();
    }
    let run = |r: &Record| {
        check(r, || {
            let path = inner.join(&r.file);
            let network = Imported::load(&path).map_err(|e| e.to_string())?;
            network.network(&Device::cpu(), &path).map_err(|e| e.to_string())
        })
    };
    let outcomes = records.par_iter().map(run).collect();
    (records, outcomes)
}

#[test]
fn obstacles_give_the_logits_of_onnxruntime() {
    let (records, outcomes) = obstacles(|r| r.refuse.is_none());
    report(&records, &outcomes);
}

#[test]
fn what_is_not_supported_or_broken_is_refused_by_name() {
    let (records, outcomes) = obstacles(|r| r.refuse.is_some());
    report(&records, &outcomes);
}

#[test]
fn a_wrong_logit_and_one_that_is_no_number_are_noticed() {
    let record = twins().swap_remove(0);
    let right: Vec<f32> = record.logits.iter().flatten().copied().collect();
    assert_eq!(compare(&right, &record), Ok(()));
    for wrong in [right[0] + 1e-3, f32::NAN] {
        let mut found = right.clone();
        found[0] = wrong;
        assert!(compare(&found, &record).is_err());
    }
    assert!(compare(&right[1..], &record).is_err());
}
