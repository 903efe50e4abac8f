//! `ghostbit export`: a quantized checkpoint in the form that others read.

use super::network::{Loaded, NORMALIZATION_KEY, NetworkArgs};
use crate::deploy::{OnnxForm, float_student, lower, onnx};
use crate::device::Device;
use crate::tensor::io::replace_file;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// What to write
    #[arg(long, value_enum, default_value = "safetensors")]
    format: Format,
    /// The file
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// The integer network, packed (docs/format.md)
    Safetensors,
    /// ONNX, opset 21: weights of up to 4 bits as INT4, quantizers around operations of floats
    OnnxQdq,
    /// ONNX with INT8 weights, which runtimes turn into integer convolutions
    OnnxInt8,
    /// Weights rounded to their codes, in f32, with the teacher's tensor names
    Float,
}

pub fn run(args: Args) -> Result<()> {
    let Loaded { network, spec, normalization } = args.network.load_any(&Device::cpu())?;
    if spec.is_none() {
        let e = format!("{} is not quantized; `ghostbit quantize` makes one that is", args.network.origin());
        return Err(Error::config("--model", e));
    }
    match args.format {
        Format::Safetensors => {
            let integer = lower(&network, normalization)?;
            integer.save(&args.out)?;
            let (float, packed) = integer.weight_bytes();
            println!("weights: {float} bytes in f32, {packed} packed with scales and zero points");
        }
        Format::OnnxQdq => replace_file(&args.out, &onnx(&lower(&network, normalization)?, OnnxForm::Qdq)?)?,
        Format::OnnxInt8 => replace_file(&args.out, &onnx(&lower(&network, normalization)?, OnnxForm::Int8)?)?,
        Format::Float => {
            let mut file = float_student(network)?;
            file.metadata.insert(NORMALIZATION_KEY.into(), serde_json::to_string(&normalization).expect("plain data"));
            file.save(&args.out)?;
        }
    }
    println!("{} ({} bytes)", args.out.display(), file_bytes(&args.out)?);
    Ok(())
}

/// Size of a file.
pub fn file_bytes(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|m| m.len()).map_err(|e| Error::file(path, e))
}
