//! Which network and which images: arguments that several commands share.

use crate::data::{Dataset, Normalization};
use crate::device::Device;
use crate::graph::passes::{QuantizeSpec, quantize};
use crate::graph::{Graph, InputKind, Network};
use crate::models::architecture;
use crate::models::onnx::{Imported, Options};
use crate::tensor::io::Checkpoint;
use crate::train::TestSet;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The teacher that this project trained on its own procedural images (see `assets/README.md`).
static BUILTIN: &[u8] = include_bytes!("../../assets/teacher.safetensors");

/// Metadata key of a quantized checkpoint: the quantize pass's specification as JSON.
pub const QUANT_KEY: &str = "ghostbit.quant";
/// Metadata key of checkpoints: the normalization of images as JSON.
pub const NORMALIZATION_KEY: &str = "ghostbit.normalization";

const DEFAULT_ARCH: &str = "cifar-resnet20";
const DEFAULT_CLASSES: usize = 10;

/// Network arguments.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct NetworkArgs {
    /// Architecture of the checkpoint: a name, or an .onnx file that has it [default: cifar-resnet20]
    #[arg(long)]
    pub arch: Option<String>,
    /// Checkpoint (safetensors, PyTorch names), or a float network (.onnx); the built-in teacher when absent
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Classes [default: 10; an .onnx file says it]
    #[arg(long)]
    pub classes: Option<usize>,
    /// Mean of the images that the network was trained on, as pixels between 0 and 1: one number, or three for the channels
    /// [default: what a quantized checkpoint remembers, else 0.485,0.456,0.406]
    #[arg(long, value_delimiter = ',', value_name = "R,G,B")]
    pub mean: Option<Vec<f32>>,
    /// Their standard deviation, likewise [default: 0.229,0.224,0.225]
    #[arg(long, value_delimiter = ',', value_name = "R,G,B")]
    pub std: Option<Vec<f32>>,
    /// The logits of an .onnx file with several outputs, by name
    #[arg(long, value_name = "NAME")]
    pub output: Option<String>,
    /// Size of the images of an .onnx file that leaves it open: one number for height and width, H,W, or C,H,W
    #[arg(long, value_delimiter = ',', value_name = "H,W")]
    pub input_size: Option<Vec<usize>>,
}

/// A network as a file has it.
pub struct Loaded {
    pub network: Network,
    /// How it was quantized, if it was.
    pub spec: Option<QuantizeSpec>,
    pub normalization: Normalization,
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

impl NetworkArgs {
    /// The ONNX file that the graph is read from, if it is one. Errors if two are named.
    fn onnx(&self) -> Result<Option<&Path>> {
        let arch = self.arch.as_deref().map(Path::new);
        let Some(model) = self.model.as_deref().filter(|m| is_onnx(m)) else {
            return Ok(arch.filter(|a| is_onnx(a)));
        };
        match arch.filter(|a| *a != model) {
            Some(other) => {
                let detail = format!("{} brings its own graph; leave '{}' out", model.display(), other.display());
                Err(Error::config("--arch", detail))
            }
            None => Ok(Some(model)),
        }
    }

    /// The architecture as given, or the file that has it.
    pub fn arch(&self) -> String {
        match self.onnx() {
            Ok(Some(path)) => path.display().to_string(),
            _ => self.arch.clone().unwrap_or_else(|| DEFAULT_ARCH.into()),
        }
    }

    /// The same for names of folders.
    pub fn short_arch(&self) -> String {
        let arch = self.arch();
        let stem = Path::new(&arch).file_stem().filter(|_| is_onnx(Path::new(&arch)));
        stem.map_or(arch.clone(), |s| s.to_string_lossy().into_owned())
    }

    /// The float graph, and where it comes from a file the weights in there.
    fn graph(&self) -> Result<(Graph, Option<Checkpoint>)> {
        if let Some(path) = self.onnx()? {
            let Imported { graph, weights } = self.import(path)?;
            if let Some(classes) = self.classes.filter(|c| *c != graph.classes) {
                let detail = format!("{classes}, but {} has {} logits; leave it out", path.display(), graph.classes);
                return Err(Error::config("--classes", detail));
            }
            return Ok((graph, Some(weights)));
        }
        let classes = self.classes.unwrap_or(DEFAULT_CLASSES);
        // Bounds what a mistyped number can allocate.
        if !(2..=100_000).contains(&classes) {
            return Err(Error::config("--classes", format!("{classes} classes are not between 2 and 100000")));
        }
        Ok((architecture(&self.arch(), classes)?, None))
    }

    /// The network in an ONNX file, with what the arguments say about it.
    fn import(&self, path: &Path) -> Result<Imported> {
        let options =
            Options { output: self.output.clone(), input_size: self.channels_height_width()?, ..Options::default() };
        Imported::load_with(path, &options)
    }

    /// Parses `--input-size` into `[c, h, w]`, c = 0 unless it is given.
    fn channels_height_width(&self) -> Result<Option<[usize; 3]>> {
        let (size, given) = match self.input_size.as_deref() {
            None => return Ok(None),
            Some(&[side]) => ([0, side, side], 1),
            Some(&[h, w]) => ([0, h, w], 1),
            Some(&[c, h, w]) => ([c, h, w], 0),
            Some(other) => {
                let detail = format!("{} numbers; give H,W or C,H,W", other.len());
                return Err(Error::config("--input-size", detail));
            }
        };
        if size[given..].contains(&0) {
            return Err(Error::config("--input-size", "sizes must be at least 1"));
        }
        Ok(Some(size))
    }

    /// The float network with its weights.
    pub fn load(&self, device: &Device) -> Result<Network> {
        match self.load_any(device)? {
            Loaded { network, spec: None, .. } => Ok(network),
            _ => Err(Error::config("--model", "the checkpoint is already quantized; give the float one")),
        }
    }

    /// A float or a quantized network, as the file says.
    pub fn load_any(&self, device: &Device) -> Result<Loaded> {
        let (mut graph, own) = self.graph()?;
        let builtin = Path::new("(built-in teacher)");
        let (file, path) = match (&self.model, own) {
            (Some(path), Some(own)) if is_onnx(path) => (own, path.as_path()),
            (Some(path), _) => (Checkpoint::load(path)?, path.as_path()),
            (None, Some(own)) => (own, self.onnx()?.unwrap_or(builtin)),
            (None, None) => (Checkpoint::parse(BUILTIN).map_err(|e| Error::file(builtin, e))?, builtin),
        };
        let mut spec = None;
        if let Some(text) = file.metadata.get(QUANT_KEY) {
            let fail = |e: serde_json::Error| Error::file(path, format!("metadata {QUANT_KEY}: {e}"));
            let found: QuantizeSpec = serde_json::from_str(text).map_err(fail)?;
            graph = quantize(&graph, found.clone())?;
            spec = Some(found);
        }
        let remembered = file.metadata.get(NORMALIZATION_KEY).map(|text| {
            let fail = |e: serde_json::Error| Error::file(path, format!("metadata {NORMALIZATION_KEY}: {e}"));
            serde_json::from_str::<Normalization>(text).map_err(fail)
        });
        let normalization = match (self.normalization()?, remembered) {
            (Some(given), _) => given,
            (None, Some(remembered)) => remembered?,
            (None, None) => Normalization::CIFAR,
        };
        let mut network = Network::new(device, graph, 0)?;
        network.load_checkpoint(file, path)?;
        Ok(Loaded { network, spec, normalization })
    }

    /// What `--mean` and `--std` say; `None` without them.
    pub fn normalization(&self) -> Result<Option<Normalization>> {
        let numbers = |key: &str, given: &[f32], low: f32| match given {
            all if all.iter().any(|v| !v.is_finite() || *v <= low) => {
                Err(Error::config(key, format!("{all:?}: numbers must be finite and above {low}")))
            }
            [v] => Ok([*v; 3]),
            [r, g, b] => Ok([*r, *g, *b]),
            other => Err(Error::config(key, format!("{} numbers; give one, or three for the channels", other.len()))),
        };
        match (&self.mean, &self.std) {
            (None, None) => Ok(None),
            (Some(mean), Some(std)) => {
                Ok(Some(Normalization { mean: numbers("--mean", mean, f32::MIN)?, std: numbers("--std", std, 0.0)? }))
            }
            _ => Err(Error::config("--mean", "give --mean and --std together")),
        }
    }

    /// The untrained network.
    pub fn fresh(&self, device: &Device, seed: u64) -> Result<Network> {
        match self.graph()? {
            (graph, None) => Network::new(device, graph, seed),
            (_, Some(_)) => Err(Error::config("--arch", "an .onnx file has weights of its own; give it as --init")),
        }
    }

    /// Whether this is the built-in teacher.
    pub fn is_builtin(&self) -> bool {
        self.model.is_none() && matches!(self.onnx(), Ok(None))
    }

    /// What to call the checkpoint in reports.
    pub fn origin(&self) -> String {
        match &self.model {
            Some(path) => path.display().to_string(),
            None if self.is_builtin() => "built-in teacher".into(),
            None => self.arch(),
        }
    }
}

/// Test sets by specification; the built-in one for the built-in teacher when none is given. Images must be what `graph`
/// takes, where one is given.
pub fn test_sets(specs: &[String], network: &NetworkArgs, graph: Option<&Graph>) -> Result<Vec<TestSet>> {
    let builtin = ["builtin:test".to_string()];
    let specs = if specs.is_empty() && network.is_builtin() { &builtin[..] } else { specs };
    let mut sets = Vec::with_capacity(specs.len());
    for spec in specs {
        let data = Dataset::open(spec)?;
        if let Some(graph) = graph {
            check_images("--eval", spec, &data, graph)?;
        }
        sets.push(TestSet { name: spec.clone(), data });
    }
    Ok(sets)
}

/// Refuses images that the network cannot take.
pub fn check_images(key: &str, spec: &str, data: &Dataset, graph: &Graph) -> Result<()> {
    let takes = match &graph.inputs[..] {
        [InputKind::Real(sample)] => &sample[..],
        _ => &[],
    };
    if !data.fits(graph.classes) || [data.h, data.w, data.c] != takes {
        let largest = data.labels.iter().max().unwrap_or(&0);
        let found = format!("{}x{}x{} images with labels up to {largest}", data.h, data.w, data.c);
        let sizes: Vec<String> = takes.iter().map(usize::to_string).collect();
        let detail =
            format!("{spec} holds {found}; the network takes {} and has {} classes", sizes.join("x"), graph.classes);
        return Err(Error::config(key, detail));
    }
    Ok(())
}
