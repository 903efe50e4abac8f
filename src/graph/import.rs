//! Values in and out of a network: checkpoints use PyTorch's names and layouts (OIHW filters), the engine KRSC.

use super::{Network, ParamStore};
use crate::tensor::io::{Checkpoint, HostTensor};
use crate::tensor::{Shape, Tensor};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::Path;

impl Network {
    /// Loads parameters and buffers (and ranges, when the file holds them) by name.
    ///
    /// Errors list every missing, unexpected or misshapen tensor with expected and found shapes, non-finite values and
    /// negative variances. `*.num_batches_tracked` is ignored, a common prefix `module.` is dropped.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        self.load_checkpoint(Checkpoint::load(path)?, path)
    }

    /// [`Network::load`] of an already parsed file; `path` is named in errors.
    pub fn load_checkpoint(&mut self, mut file: Checkpoint, path: &Path) -> Result<()> {
        if !file.tensors.is_empty() && file.tensors.keys().all(|k| k.starts_with("module.")) {
            let tensors = std::mem::take(&mut file.tensors);
            file.tensors = tensors.into_iter().map(|(k, v)| (k["module.".len()..].to_string(), v)).collect();
        }
        let mut problems = Vec::new();
        let mut used = BTreeSet::new();
        let accept = |name: &str,
                      to: &mut Tensor,
                      filter: bool,
                      used: &mut BTreeSet<String>,
                      problems: &mut Vec<String>|
         -> Result<()> {
            used.insert(name.to_string());
            let want = if filter { oihw(to.shape()) } else { to.shape().to_vec() };
            match file.tensors.get(name) {
                None => problems.push(format!("missing {name} {}", Shape::new(&want))),
                Some(t) if t.shape != want => {
                    problems.push(format!("{name} has shape {:?}, expected {}", t.shape, Shape::new(&want)));
                }
                Some(t) => {
                    if let Some(i) = t.values.iter().position(|v| !v.is_finite()) {
                        problems.push(format!("{name}[{i}] is {}", t.values[i]));
                    } else if let Some(i) =
                        t.values.iter().position(|v| *v < 0.0).filter(|_| name.ends_with("running_var"))
                    {
                        problems.push(format!("{name}[{i}] is a negative variance ({})", t.values[i]));
                    } else if filter {
                        to.write(&permute(&t.values, to.shape(), Direction::ToKrsc))?;
                    } else {
                        to.write(&t.values)?;
                    }
                }
            }
            Ok(())
        };
        for (name, shape) in self.params.entries() {
            accept(name, &mut self.params.get(name)?, shape.len() == 4, &mut used, &mut problems)?;
        }
        for (name, t) in &mut self.buffers {
            accept(name, t, false, &mut used, &mut problems)?;
        }
        // A float checkpoint has no ranges: they then stay as they are, to be calibrated.
        let quantized = self.ranges.entries().any(|(n, _)| file.tensors.contains_key(n));
        for (name, _) in self.ranges.entries() {
            if quantized {
                accept(name, &mut self.ranges.get(name)?, false, &mut used, &mut problems)?;
            } else {
                used.insert(name.to_string());
            }
        }
        for name in file.tensors.keys() {
            if !used.contains(name) && !name.ends_with("num_batches_tracked") {
                problems.push(format!("unexpected {name} {:?}", file.tensors[name].shape));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        let shown = problems.len().min(12);
        let more =
            if problems.len() > shown { format!("; and {} more", problems.len() - shown) } else { String::new() };
        Err(Error::file(
            path,
            format!(
                "does not fit {}: {}{more}; check --arch and --classes",
                self.graph.name,
                problems[..shown].join("; ")
            ),
        ))
    }

    /// Parameters, buffers and ranges with PyTorch's names and layouts.
    pub fn to_checkpoint(&self) -> Result<Checkpoint> {
        let mut file = Checkpoint::default();
        for (name, shape) in self.params.entries() {
            let values = self.params.get(name)?.to_vec::<f32>()?;
            let tensor = if shape.len() == 4 {
                HostTensor { shape: oihw(shape), values: permute(&values, shape, Direction::FromKrsc) }
            } else {
                HostTensor { shape: shape.to_vec(), values }
            };
            file.tensors.insert(name.to_string(), tensor);
        }
        put_store(&mut file, &self.ranges)?;
        for (name, t) in &self.buffers {
            let tensor = HostTensor { shape: t.shape().to_vec(), values: t.to_vec::<f32>()? };
            file.tensors.insert(name.clone(), tensor);
        }
        file.metadata.insert("arch".into(), self.graph.name.clone());
        file.metadata.insert("classes".into(), self.graph.classes.to_string());
        Ok(file)
    }
}

fn put_store(file: &mut Checkpoint, store: &ParamStore) -> Result<()> {
    for (name, shape) in store.entries() {
        let tensor = HostTensor { shape: shape.to_vec(), values: store.get(name)?.to_vec::<f32>()? };
        file.tensors.insert(name.to_string(), tensor);
    }
    Ok(())
}

/// `[k c r s]` of a `k r s c` filter.
fn oihw(s: Shape) -> Vec<usize> {
    vec![s[0], s[3], s[1], s[2]]
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToKrsc,
    FromKrsc,
}

/// Reorders a filter between KCRS (files) and KRSC (engine); `shape` is the KRSC one.
fn permute(values: &[f32], shape: Shape, direction: Direction) -> Vec<f32> {
    let [k, r, s, c] = [shape[0], shape[1], shape[2], shape[3]];
    let mut out = vec![0.0; values.len()];
    for ki in 0..k {
        for ri in 0..r {
            for si in 0..s {
                for ci in 0..c {
                    let krsc = ((ki * r + ri) * s + si) * c + ci;
                    let kcrs = ((ki * c + ci) * r + ri) * s + si;
                    match direction {
                        Direction::ToKrsc => out[krsc] = values[kcrs],
                        Direction::FromKrsc => out[kcrs] = values[krsc],
                    }
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_permutation_round_trips() {
        let shape = Shape::new(&[2, 3, 4, 5]);
        let values: Vec<f32> = (0..120).map(|i| i as f32).collect();
        let there = permute(&values, shape, Direction::ToKrsc);
        assert_ne!(there, values);
        // k=1, c=2, r=1, s=3 in KCRS is element ((1*5+2)*3+1)*4+3.
        assert_eq!(there[((3 + 1) * 4 + 3) * 5 + 2], values[((5 + 2) * 3 + 1) * 4 + 3]);
        assert_eq!(permute(&there, shape, Direction::FromKrsc), values);
    }
}
