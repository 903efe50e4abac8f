//! Narrow twins of networks that people have, from the file to deployment: a short run of the default recipe, the integer
//! network, its file, and both ONNX forms. ONNX Runtime computes the forms where `GHOSTBIT_PYTHON` names a Python with it.

#[allow(dead_code, reason = "other tests use the rest")]
mod networks;

use flate2::read::GzDecoder;
use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::deploy::{Engine, IntegerNetwork, OnnxForm, lower, onnx};
use ghostbit::device::Device;
use ghostbit::graph::{Forward, Network, Taps};
use ghostbit::methods::Recipe;
use ghostbit::models::onnx::Imported;
use ghostbit::tensor::Tensor;
use ghostbit::train::QuantizeRun;
use networks::images;
use rayon::prelude::*;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// Returns a file of every network that PyTorch's older exporter writes, which keeps batch norms.
fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks/twins");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.to_string_lossy().ends_with(".script.onnx.gz"));
    all.sort();
    all
}

/// A run of a few iterations; what the network cannot serve is left out.
fn short(network: &Network) -> Recipe {
    let settings = [
        "batch=4",
        "iters=4",
        "warmup=2",
        "images.count=8",
        "images.iters=2",
        "ranges.batches=2",
        "reconstruction.iters=2",
        "eval_every=4",
    ];
    let mut recipe = Recipe::load("best").unwrap();
    settings.iter().for_each(|s| recipe.set(s).unwrap());
    recipe.adapt(&network.graph, &settings.map(String::from));
    recipe
}

fn student_logits(network: &mut Network, x: &Tensor) -> Vec<f32> {
    let mut tape = Tape::inference(&Device::cpu());
    let out = network.forward(&mut tape, &[Var::constant(x.clone())], Forward::eval(), &Taps::default()).unwrap();
    out.output.value.to_vec::<f32>().unwrap()
}

fn bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Takes one file to deployment and leaves its ONNX forms, images and logits in `folder`.
fn deploy(path: &Path, folder: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap().to_string_lossy().replace(".onnx.gz", "");
    let mut data = Vec::new();
    GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut data).unwrap();
    let teacher = Imported::parse(&data, &name)?.network(&Device::cpu(), path).map_err(|e| e.to_string())?;
    let x = images(3, &teacher.graph, 5);
    let recipe = short(&teacher);
    let run = || {
        let mut run = QuantizeRun::new(&Device::cpu(), teacher, Normalization::CIFAR, recipe)?;
        let summary = run.run(&[], folder, 0, &AtomicBool::new(false), &mut |_| Ok(()))?;
        run.into_selected(&[], &summary)
    };
    let mut student = run().map_err(|e| format!("quantize: {e}"))?.network;
    let want = student_logits(&mut student, &x);
    let integer = lower(&student, Normalization::CIFAR).map_err(|e| format!("lower: {e}"))?;
    let file = integer.to_checkpoint()?.serialize().map_err(|e| e.to_string())?;
    if IntegerNetwork::parse(&file)? != integer {
        return Err("its file is read as another network".into());
    }
    let forms = [OnnxForm::Qdq, OnnxForm::Int8].map(|form| (form, onnx(&integer, form)));
    let engine = Engine::new(integer).map_err(|e| format!("engine: {e}"))?;
    let found = engine.logits(&x).and_then(|y| y.to_vec::<f32>()).map_err(|e| format!("engine: {e}"))?;
    if found.iter().zip(&want).any(|(a, b)| a.to_bits() != b.to_bits()) {
        return Err("the engine's logits are not the student's".into());
    }
    for (form, model) in forms {
        let stem = format!("{name}-{form:?}");
        std::fs::write(folder.join(format!("{stem}.onnx")), model.map_err(|e| format!("{form:?}: {e}"))?).unwrap();
        std::fs::write(folder.join(format!("{stem}.images")), bytes(&x.to_vec::<f32>().unwrap())).unwrap();
        std::fs::write(folder.join(format!("{stem}.logits")), bytes(&found)).unwrap();
    }
    Ok(())
}

#[test]
fn every_network_goes_from_its_file_to_deployment() {
    let folder = tempfile::tempdir().unwrap();
    let files = files();
    assert!(files.len() > 40, "{} files", files.len());
    let faults: Vec<String> = files
        .par_iter()
        .filter_map(|path| {
            let own = tempfile::tempdir_in(folder.path()).unwrap();
            let outcome = deploy(path, own.path());
            for entry in std::fs::read_dir(own.path()).unwrap().map(|e| e.unwrap().path()) {
                std::fs::rename(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
            }
            outcome.err().map(|e| format!("{}: {e}", path.file_name().unwrap().to_string_lossy()))
        })
        .collect();
    assert!(faults.is_empty(), "{} of {} networks at fault:\n{}", faults.len(), files.len(), faults.join("\n"));
    let Some(python) = std::env::var_os("GHOSTBIT_PYTHON") else {
        println!("GHOSTBIT_PYTHON names no Python with onnx and onnxruntime: the ONNX forms were written, not run");
        return;
    };
    let check = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx_check.py");
    let ran = Command::new(python).arg(check).arg(folder.path()).output().unwrap();
    assert!(ran.status.success(), "{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
}
