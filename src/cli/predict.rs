//! `ghostbit predict`: classes of image files by an integer network.

use crate::data::Normalization;
use crate::deploy::{Engine, IntegerNetwork};
use crate::device::Device;
use crate::tensor::Tensor;
use crate::{Error, Result};
use image::imageops::FilterType;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Integer network (integer.safetensors)
    network: PathBuf,
    /// PNG files; resized to what the network takes
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// Classes to print for each
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let engine = Engine::new(IntegerNetwork::load(&args.network)?)?;
    let network = engine.network();
    let &[h, w, 3] = &network.input()[..] else {
        let e = format!("takes inputs of shape {:?}; images have three channels", network.input());
        return Err(Error::file(&args.network, e));
    };
    let mut rows = Vec::new();
    for path in &args.images {
        let x = Tensor::from_slice(&Device::cpu(), [1, h, w, 3], &pixels(path, [h, w], &network.normalization)?)?;
        let best = probabilities(&engine.logits(&x)?.to_vec::<f32>()?);
        let best = &best[..args.top.clamp(1, best.len())];
        if !args.json {
            let list: Vec<String> = best.iter().map(|(c, p)| format!("{c} ({:.1} %)", 100.0 * p)).collect();
            println!("{}: {}", path.display(), list.join(", "));
        }
        let list: Vec<_> = best.iter().map(|(c, p)| json!({"class": c, "probability": p})).collect();
        rows.push(json!({"image": path, "classes": list}));
    }
    if args.json {
        let doc = json!({"network": network.graph.name, "file": args.network, "results": rows});
        println!("{}", serde_json::to_string_pretty(&doc).expect("plain data"));
    }
    Ok(())
}

/// An image as the network's input, `h w 3`.
fn pixels(path: &Path, [h, w]: [usize; 2], norm: &Normalization) -> Result<Vec<f32>> {
    let fail = |e: image::ImageError| Error::file(path, format!("cannot be read as an image: {e}"));
    let mut reader = image::ImageReader::open(path).map_err(|e| Error::file(path, e))?;
    // A small file may claim to be a large image.
    reader.limits(image::Limits::default());
    let reader = reader.with_guessed_format().map_err(|e| Error::file(path, e))?;
    let mut image = reader.decode().map_err(fail)?.to_rgb8();
    let size = (w as u32, h as u32);
    if image.dimensions() != size {
        image = image::imageops::resize(&image, size.0, size.1, FilterType::Triangle);
    }
    Ok(image.pixels().flat_map(|p| (0..3).map(|c| norm.forward(p.0[c], c))).collect())
}

/// Classes and their softmax, likeliest first.
fn probabilities(logits: &[f32]) -> Vec<(usize, f64)> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let terms: Vec<f64> = logits.iter().map(|v| f64::from(v - top).exp()).collect();
    let sum: f64 = terms.iter().sum();
    let mut all: Vec<(usize, f64)> = terms.into_iter().map(|t| t / sum).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all
}
