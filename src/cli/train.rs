//! `ghostbit train`: supervised training, which made the built-in teacher.

use super::network::{NetworkArgs, check_images};
use crate::data::{Dataset, Normalization};
use crate::device::Device;
use crate::tensor::io::check_writable;
use crate::train::{SupervisedConfig, train_supervised};
use crate::{Error, Result};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Training images
    #[arg(long, default_value = "builtin:train")]
    data: String,
    /// Test images, for reporting after each epoch
    #[arg(long, default_value = "builtin:test")]
    eval: String,
    /// Use only the first N training images
    #[arg(long, value_name = "N")]
    images: Option<usize>,
    #[arg(long, default_value_t = 20)]
    epochs: u64,
    #[arg(long, default_value_t = 128)]
    batch: usize,
    #[arg(long, default_value_t = 0.1)]
    lr: f32,
    /// Divide the rate by 10 after half and three quarters of the training, instead of a cosine to 0
    #[arg(long)]
    multi_step: bool,
    #[arg(long, default_value_t = 5e-4)]
    weight_decay: f32,
    /// Random crop: pixels of padding
    #[arg(long, default_value_t = 2)]
    crop: usize,
    /// Random horizontal flip
    #[arg(long)]
    flip: bool,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Start from the weights of --model instead of random ones
    #[arg(long)]
    resume_weights: bool,
    /// Where the checkpoint goes
    #[arg(long)]
    out: PathBuf,
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    if !(args.lr.is_finite() && args.lr > 0.0) {
        return Err(Error::config("--lr", format!("{} must be finite and positive", args.lr)));
    }
    check_writable(&args.out)?;
    println!("device {} ({why})", device.name());
    let mut data = Dataset::open(&args.data)?;
    if let Some(n) = args.images {
        data = data.take(n);
    }
    let test = Dataset::open(&args.eval)?;
    check_images("--data", &args.data, &data, args.network.classes)?;
    check_images("--eval", &args.eval, &test, args.network.classes)?;
    if args.epochs == 0 {
        return Err(Error::config("--epochs", "must be at least 1"));
    }
    let mut network = if args.resume_weights { args.network.load(device)? } else { args.network.fresh(device, args.seed)? };
    let config = SupervisedConfig {
        epochs: args.epochs,
        batch: args.batch,
        lr: args.lr,
        multi_step: args.multi_step,
        weight_decay: args.weight_decay,
        crop: args.crop,
        flip: args.flip,
        seed: args.seed,
    };
    let start = std::time::Instant::now();
    train_supervised(&mut network, &data, &test, &Normalization::CIFAR, &config, |network, e| {
        // After every epoch, so that nothing is lost when a long training is stopped.
        network.to_checkpoint()?.save(&args.out)?;
        let s = start.elapsed().as_secs_f64();
        println!("epoch {:>3}  loss {:.4}  lr {:.4}  test {:.2} %  {s:.0} s", e.epoch, e.loss, e.lr, e.test.top1());
        Ok(())
    })?;
    println!("wrote {}", args.out.display());
    Ok(())
}
