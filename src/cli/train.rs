//! `ghostbit train`: supervised training, which made the built-in teacher.

use super::network::{NetworkArgs, check_images};
use crate::data::{Dataset, Normalization};
use crate::device::Device;
use crate::graph::passes::{fold_bn, tune_bn, with_math};
use crate::ops::conv2d::Math;
use crate::tensor::io::check_writable;
use crate::train::{SupervisedConfig, train_supervised};
use crate::{Error, Result};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub struct Args {
    /// Architecture to train [default: cifar-resnet20]
    #[arg(long)]
    arch: Option<String>,
    /// Classes [default: 10; an .onnx file says it]
    #[arg(long)]
    classes: Option<usize>,
    /// Start from this checkpoint (safetensors, PyTorch names) or network (.onnx) instead of random weights
    #[arg(long, value_name = "CHECKPOINT")]
    init: Option<PathBuf>,
    /// Batch normalisation while training
    #[arg(long, value_enum, default_value = "train")]
    bn: Bn,
    /// In what precision a GPU multiplies (a CPU: f32)
    #[arg(long, value_enum, default_value = "tf32")]
    math: Precision,
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
    /// Where the checkpoint goes
    #[arg(long)]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    F32,
    Tf32,
    Bf16,
}

impl From<Precision> for Math {
    fn from(p: Precision) -> Self {
        match p {
            Precision::F32 => Self::F32,
            Precision::Tf32 => Self::Tf32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Bn {
    /// Statistics of the batch
    Train,
    /// Running statistics, fixed
    Eval,
    /// As eval, convolution and batch norm in one: the same gradients for less memory
    Tune,
    /// Folded into the convolutions, whose folded weights are trained: known to be unstable
    Deploy,
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
    if args.epochs == 0 {
        return Err(Error::config("--epochs", "must be at least 1"));
    }
    let named = NetworkArgs {
        arch: args.arch.clone(),
        model: args.init.clone(),
        classes: args.classes,
        ..NetworkArgs::default()
    };
    let mut network = if args.init.is_some() { named.load(device)? } else { named.fresh(device, args.seed)? };
    check_images("--data", &args.data, &data, &network.graph)?;
    check_images("--eval", &args.eval, &test, &network.graph)?;
    match args.bn {
        Bn::Train => {}
        _ if args.init.is_none() => {
            let detail = "running statistics of a random network are those of no data; give --init, or --bn train";
            return Err(Error::config("--bn", detail));
        }
        Bn::Eval => {}
        Bn::Tune => network.graph = Arc::new(tune_bn(&network.graph)),
        Bn::Deploy => network = fold_bn(&network)?,
    }
    network.graph = Arc::new(with_math(&network.graph, args.math.into()));
    let config = SupervisedConfig {
        epochs: args.epochs,
        batch: args.batch,
        lr: args.lr,
        multi_step: args.multi_step,
        batch_statistics: args.bn == Bn::Train,
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
    println!("wrote {}, peak memory {:.0} MiB", args.out.display(), super::peak_rss_mib());
    Ok(())
}
