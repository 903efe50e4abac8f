//! The state of a run in one safetensors file, complete enough that a resumed run equals an uninterrupted one bit for
//! bit: all randomness is counter-based, so no generator state is needed.

use super::images::{ImagePool, image_size};
use super::run::{Progress, QuantizeRun};
use super::student_step::WeightOptimizer;
use crate::ops::cluster_loss::Centroids;
use crate::tensor::io::{Checkpoint, HostTensor, RawTensor};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

const FORMAT: &str = "1";

fn file_in(folder: &Path) -> PathBuf {
    folder.join("checkpoint.safetensors")
}

/// Every tensor of the state by name, apart from what may be absent (stored images, selection).
fn state(run: &mut QuantizeRun) -> Vec<(String, Tensor)> {
    let mut list = vec![
        ("student.params".to_string(), run.student.network.params.values().clone()),
        ("student.ranges".to_string(), run.student.network.ranges.values().clone()),
        ("generator.params".to_string(), run.generator.network.params.values().clone()),
    ];
    // Clones share their buffer: writing to them writes to the state.
    let named = |prefix: &str, s: Vec<(&'static str, &Tensor)>| -> Vec<(String, Tensor)> {
        s.into_iter().map(|(n, t)| (format!("{prefix}.{n}"), t.clone())).collect()
    };
    list.extend(match &run.student.weights {
        WeightOptimizer::Sgd(sgd) => named("student.sgd", sgd.state()),
        WeightOptimizer::Adam(adam) => named("student.adam", adam.state()),
    });
    list.extend(named("generator.adam", run.generator.adam.state()));
    if let Some(adam) = &run.student.adam {
        list.extend(named("ranges.adam", adam.state()));
    }
    for (l, c) in run.generator.memory.centroids.iter().enumerate() {
        for (part, t) in [("mean", &c.mean), ("var", &c.var), ("seen", &c.seen)] {
            list.push((format!("centroids.{l}.{part}"), t.clone()));
        }
    }
    for (name, s) in run.student.network.range_tracking() {
        for (part, t) in [("lo", &s.lo), ("hi", &s.hi), ("t", &s.t)] {
            list.push((format!("tracking.{name}.{part}"), t.clone()));
        }
    }
    list
}

/// Writes the checkpoint to `folder` (whole or not at all).
pub(super) fn save(run: &mut QuantizeRun, folder: &Path) -> Result<()> {
    let mut file = Checkpoint::default();
    for (name, t) in state(run) {
        put(&mut file, name, &t)?;
    }
    if let Some(p) = &run.pool {
        put(&mut file, "pool.images".into(), &p.images)?;
        put(&mut file, "pool.labels".into(), &p.labels)?;
        put(&mut file, "pool.teacher_logits".into(), &p.teacher_logits)?;
    }
    if let Some((params, ranges)) = &run.selected {
        put(&mut file, "selected.params".into(), params)?;
        put(&mut file, "selected.ranges".into(), ranges)?;
    }
    for (i, (x, t)) in run.held_out.iter().enumerate() {
        put(&mut file, format!("held_out.{i}.images"), x)?;
        put(&mut file, format!("held_out.{i}.logits"), t)?;
    }
    let progress = serde_json::to_string(&run.progress).expect("plain data");
    for (key, value) in [
        ("format", FORMAT.to_string()),
        ("step", run.it.to_string()),
        ("recipe", run.recipe.to_toml()),
        ("held_out", run.held_out.len().to_string()),
        ("progress", progress),
    ] {
        file.metadata.insert(format!("ghostbit.{key}"), value);
    }
    file.save(file_in(folder))
}

fn put(file: &mut Checkpoint, name: String, t: &Tensor) -> Result<()> {
    if t.dtype() == DType::I32 {
        file.bytes.insert(name, RawTensor::i32(&t.to_vec::<i32>()?));
    } else {
        file.tensors.insert(name, HostTensor { shape: t.shape().to_vec(), values: t.to_vec::<f32>()? });
    }
    Ok(())
}

/// Restores what [`save`] wrote into a fresh run of the same recipe.
pub(super) fn load(run: &mut QuantizeRun, folder: &Path) -> Result<()> {
    let path = file_in(folder);
    let file = Checkpoint::load(&path)?;
    let meta = |key: &str| {
        let value = file.metadata.get(&format!("ghostbit.{key}"));
        value
            .ok_or_else(|| Error::file(&path, format!("metadata ghostbit.{key} is missing; this is no run checkpoint")))
    };
    if meta("format")? != FORMAT {
        return Err(Error::file(&path, "was written by another version of ghostbit; start the run anew"));
    }
    if *meta("recipe")? != run.recipe.to_toml() {
        return Err(Error::file(&path, "belongs to another recipe than config.toml; start the run anew"));
    }
    let device = run.teacher.device();
    let read = |name: &str| -> Result<Tensor> {
        if let Some(raw) = file.bytes.get(name) {
            let v = raw.to_i32().ok_or_else(|| Error::file(&path, format!("{name} is not i32")))?;
            return Tensor::from_slice(&device, raw.shape.as_slice(), &v);
        }
        let t = file.tensors.get(name).ok_or_else(|| Error::file(&path, format!("tensor {name} is missing")))?;
        Tensor::from_slice(&device, t.shape.as_slice(), &t.values)
    };
    run.generator.memory.centroids.clear();
    for l in 0.. {
        let name = |part: &str| format!("centroids.{l}.{part}");
        if !file.tensors.contains_key(&name("mean")) {
            break;
        }
        let centres = Centroids { mean: read(&name("mean"))?, var: read(&name("var"))?, seen: read(&name("seen"))? };
        run.generator.memory.centroids.push(centres);
    }
    for (name, mut t) in state(run) {
        let stored = read(&name)?;
        if (stored.len(), stored.dtype()) != (t.len(), t.dtype()) {
            return Err(Error::file(&path, format!("{name} has shape {}, expected {}", stored.shape(), t.shape())));
        }
        t.copy_from(&stored)?;
    }
    if file.tensors.contains_key("pool.images") {
        let (images, labels) = (read("pool.images")?, read("pool.labels")?);
        let shape = image_size(&run.teacher.graph)?;
        let row: usize = shape.iter().product();
        if labels.len() * row != images.len() {
            return Err(Error::file(
                &path,
                format!("pool.images has shape {}, not of images {shape:?}", images.shape()),
            ));
        }
        run.pool = Some(ImagePool::restore(images, labels, read("pool.teacher_logits")?, shape));
    }
    if file.tensors.contains_key("selected.params") {
        run.selected = Some((read("selected.params")?, read("selected.ranges")?));
    }
    let number = |key: &str| -> Result<u64> {
        meta(key)?.parse().map_err(|_| Error::file(&path, format!("metadata ghostbit.{key} is no number")))
    };
    run.held_out.clear();
    for i in 0..number("held_out")? {
        run.held_out.push((read(&format!("held_out.{i}.images"))?, read(&format!("held_out.{i}.logits"))?));
    }
    run.it = number("step")?;
    run.progress = serde_json::from_str::<Progress>(meta("progress")?)
        .map_err(|e| Error::file(&path, format!("metadata ghostbit.progress: {e}")))?;
    Ok(())
}
