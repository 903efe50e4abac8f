//! Which network and which images: arguments that several commands share.

use crate::data::Dataset;
use crate::device::Device;
use crate::graph::passes::{QuantizeSpec, quantize};
use crate::graph::{Graph, Network};
use crate::models::architecture;
use crate::tensor::io::Checkpoint;
use crate::train::TestSet;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The teacher that this project trained on its own procedural images (see `assets/README.md`).
static BUILTIN: &[u8] = include_bytes!("../../assets/teacher.safetensors");

/// Metadata key of a quantized checkpoint: the quantize pass's specification as JSON.
pub const QUANT_KEY: &str = "ghostbit.quant";

/// Network arguments.
#[derive(clap::Args, Clone, Debug)]
pub struct NetworkArgs {
    /// Architecture of the checkpoint
    #[arg(long, default_value = "cifar-resnet20")]
    pub arch: String,
    /// Checkpoint (safetensors, PyTorch names); the built-in teacher when absent
    #[arg(long)]
    pub model: Option<PathBuf>,
    #[arg(long, default_value_t = 10)]
    pub classes: usize,
}

impl NetworkArgs {
    fn graph(&self) -> Result<Graph> {
        // Bounds what a mistyped number can allocate.
        if !(2..=100_000).contains(&self.classes) {
            return Err(Error::config("--classes", format!("{} is not between 2 and 100000", self.classes)));
        }
        architecture(&self.arch, self.classes)
    }

    /// The float network with its weights.
    pub fn load(&self, device: &Device) -> Result<Network> {
        match self.load_any(device)? {
            (network, None) => Ok(network),
            (_, Some(_)) => Err(Error::config("--model", "the checkpoint is already quantized; give the float one")),
        }
    }

    /// A float or a quantized network, as the file says.
    pub fn load_any(&self, device: &Device) -> Result<(Network, Option<QuantizeSpec>)> {
        let mut graph = self.graph()?;
        let builtin = Path::new("(built-in teacher)");
        let path = self.model.as_deref().unwrap_or(builtin);
        let file = match &self.model {
            Some(path) => Checkpoint::load(path)?,
            None => Checkpoint::parse(BUILTIN).map_err(|e| Error::file(builtin, e))?,
        };
        let mut spec = None;
        if let Some(text) = file.metadata.get(QUANT_KEY) {
            let fail = |e: serde_json::Error| Error::file(path, format!("metadata {QUANT_KEY}: {e}"));
            let found: QuantizeSpec = serde_json::from_str(text).map_err(fail)?;
            graph = quantize(&graph, found)?;
            spec = Some(found);
        }
        let mut network = Network::new(device, graph, 0)?;
        network.load_checkpoint(file, path)?;
        Ok((network, spec))
    }

    /// The untrained network.
    pub fn fresh(&self, device: &Device, seed: u64) -> Result<Network> {
        Network::new(device, self.graph()?, seed)
    }

    /// What to call the checkpoint in reports.
    pub fn origin(&self) -> String {
        self.model.as_ref().map_or("built-in teacher".into(), |p| p.display().to_string())
    }
}

/// Test sets by specification; the built-in one for the built-in teacher when none is given.
pub fn test_sets(specs: &[String], network: &NetworkArgs) -> Result<Vec<TestSet>> {
    let builtin = ["builtin:test".to_string()];
    let specs = if specs.is_empty() && network.model.is_none() { &builtin[..] } else { specs };
    let mut sets = Vec::with_capacity(specs.len());
    for spec in specs {
        let data = Dataset::open(spec)?;
        check_images("--eval", spec, &data, network.classes)?;
        sets.push(TestSet { name: spec.clone(), data });
    }
    Ok(sets)
}

/// Refuses images that the network cannot take.
pub fn check_images(key: &str, spec: &str, data: &Dataset, classes: usize) -> Result<()> {
    if data.classes != classes || [data.h, data.w, data.c] != [32, 32, 3] {
        let found = format!("{}x{}x{} images of {} classes", data.h, data.w, data.c, data.classes);
        return Err(Error::config(
            key,
            format!("{spec} holds {found}; the network takes 32x32x3 and {classes} classes"),
        ));
    }
    Ok(())
}
