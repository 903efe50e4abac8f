//! A recipe: one TOML file, unknown keys refused (`validate.rs` checks the values).

use super::inundation::InundationRecipe;
use super::loss::{GeneratorLoss, StudentLoss};
use super::reconstruction::ReconstructionRecipe;
use super::terms::{BnStats, CrossEntropy};
use crate::models::generator::{Condition, GeneratorArch};
use crate::ops::conv2d::Math;
use crate::optim::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that decides what a quantization run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    pub wbits: u8,
    pub abits: u8,
    /// Weight bits of the first and last layer, when they differ from `wbits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_bits: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_bits: Option<u8>,
    /// Bits of the images as the student's first layer sees them; f32 if absent, as in GDFQ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_bits: Option<u8>,
    /// Bits of single layers' weights and ReLUs' outputs, by name of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layer_bits: BTreeMap<String, u8>,
    pub batch: usize,
    /// All iterations, warm-up included.
    pub iters: u64,
    /// Iterations before the student is first stepped.
    pub warmup: u64,
    pub eval_every: u64,
    pub seed: u64,
    /// Of the teacher; terms that look at the inputs of batch norms need `eval`.
    #[serde(default)]
    pub teacher_bn: BnMode,
    /// In what precision a GPU multiplies in convolutions, of teacher, student and generator; a CPU always in f32.
    #[serde(default)]
    pub math: MathName,
    #[serde(default)]
    pub generator: GeneratorRecipe,
    #[serde(default)]
    pub generator_loss: GeneratorLoss,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImagesRecipe>,
    pub ranges: RangesRecipe,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<ReconstructionRecipe>,
    pub student: StudentRecipe,
    pub student_loss: StudentLoss,
}

/// The generator, its optimizer (Adam) and what it is conditioned on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeneratorRecipe {
    pub latent: usize,
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    /// After warm-up the generator is stepped in every `every`-th iteration; 0 leaves it as it is.
    pub every: u64,
    pub arch: GeneratorArch,
    pub condition: Condition,
    /// Attention centres are drawn uniformly from `center_low..center_high`, in units of the image's height and width.
    pub center_low: f32,
    pub center_high: f32,
    /// The second half of a batch repeats the first half's conditions with fresh noise (ACQ's pairs).
    pub paired: bool,
    /// Probability that a batch's images are each cropped, resized and flipped at random before the networks see them
    /// (ClusterQ, released code: 0.5, smallest crop 0.8).
    pub augment: f32,
    /// Smallest area of a crop, relative to the image.
    pub augment_scale: f32,
}

impl Default for GeneratorRecipe {
    /// GDFQ's; centres as RECONSTRUCTED for ACQ.
    fn default() -> Self {
        Self {
            latent: 100,
            lr: 1e-3,
            beta1: 0.5,
            beta2: 0.999,
            every: 1,
            arch: GeneratorArch::Gdfq,
            condition: Condition::Label,
            center_low: 0.25,
            center_high: 0.75,
            paired: false,
            augment: 0.0,
            augment_scale: 0.8,
        }
    }
}

/// Stored images, optimised directly through the teacher (after ZeroQ, Cai et al. 2020: images are the parameters).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImagesRecipe {
    /// How many; 0 for none. Made after warm-up, in batches of `batch`.
    pub count: usize,
    /// Adam iterations per batch.
    pub iters: u64,
    pub lr: f32,
    pub schedule: ImagesSchedule,
    /// Of the plateau schedule: iterations without improvement before the rate falls to a tenth, and where it stops.
    pub patience: u64,
    pub min_lr: f32,
    /// Before every iteration all images of a batch are shifted by up to this many pixels along both axes, in a circle;
    /// 0 for none. (DSG, released code: 30.)
    pub roll: usize,
    /// Probability that all images of a batch are cropped, resized and flipped at random, each for itself, before an
    /// iteration (IntraQ, released code: 0.5; HAST's for ImageNet too).
    pub augment: f32,
    /// The same for a batch that the student is given (IntraQ, released code: 1); the teacher is asked about the crops.
    pub train_augment: f32,
    /// Smallest area of a crop, relative to the image (IntraQ: 0.5).
    pub augment_scale: f32,
    /// The teacher's strided convolutions see their inputs shifted by up to a pixel, anew in every iteration (Genie).
    pub swing: bool,
    /// Start from the generator's images instead of normal noise (ours: shortens the optimisation).
    pub from_generator: bool,
    /// Fraction of student batches drawn from them, in 0..=1.
    pub share: f32,
    /// The caller hands the images in (`--images`): none are optimised, and the labels are what the teacher calls them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub given: bool,
    pub loss: GeneratorLoss,
}

impl Default for ImagesRecipe {
    fn default() -> Self {
        let loss = GeneratorLoss {
            cross_entropy: Some(CrossEntropy { weight: 0.1, ..CrossEntropy::default() }),
            bn_stats: Some(BnStats { weight: 1.0 }),
            ..GeneratorLoss::default()
        };
        Self {
            count: 256,
            iters: 60,
            lr: 0.05,
            schedule: ImagesSchedule::Cosine,
            patience: 100,
            min_lr: 1e-4,
            roll: 0,
            augment: 0.0,
            train_augment: 0.0,
            augment_scale: 0.5,
            swing: false,
            from_generator: true,
            share: 0.5,
            given: false,
            loss,
        }
    }
}

/// The rate of an image's Adam iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImagesSchedule {
    /// Half a cosine from `lr` to 0.
    Cosine,
    /// A tenth whenever the loss has not improved for `patience` iterations, not below `min_lr` (ZeroQ, DSG: PyTorch's
    /// ReduceLROnPlateau).
    Plateau,
}

/// Where quantizer ranges come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangesRecipe {
    pub weights: WeightRanges,
    pub activations: ActivationRanges,
    pub ema: EmaName,
    /// Calibration batches after warm-up (0: ranges are tracked during warm-up, as GDFQ does).
    pub batches: u64,
    /// Train the ranges (LSQ) with Adam at this rate; 0 keeps them.
    pub lr: f32,
    /// Factor on both ends of every calibrated activation range, above 0 and up to 1 (ours; the zero image below
    /// narrows them too).
    #[serde(default = "one")]
    pub clip: f32,
    /// An all-zero image is shown before each batch that moves the activation ranges. SynQ's released code does this
    /// unsaid (building its class activation maps runs the student once per iteration); the moving average then rests
    /// between the two: 0.53 of the batch's end, 0.47 of the zero image's.
    #[serde(default)]
    pub zero_image: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRanges {
    /// Minimum and maximum of the current weight in every forward pass (GDFQ).
    MinMax,
    /// Searched once for least squared error.
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationRanges {
    MinMax,
    Search,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmaName {
    Textbook,
    /// The released code's compounding bias correction.
    Legacy,
}

/// The student's optimizer and straight-through rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudentRecipe {
    #[serde(default)]
    pub optimizer: StudentOptimizer,
    pub lr: f32,
    pub schedule: StudentSchedule,
    pub momentum: f32,
    pub weight_decay: f32,
    pub ste: SteName,
    #[serde(default)]
    pub bn: BnMode,
    /// D0 of a Gaussian low-pass filter on every image that the student is trained on, in frequency indices; 0 for none
    /// (SynQ, Kim et al., ICLR 2025: 80 in its code, 20 to 100 in the paper). Both networks see the filtered images; those
    /// that set ranges are not filtered, as in its code, nor are those of evaluations.
    #[serde(default)]
    pub low_pass: f32,
    /// Adds the loss of a second copy of every batch, `x + perturb sign(dloss/dx)`; 0 for none (HAST, Li et al., CVPR 2023,
    /// released code: 0.01 for CIFAR-10, 0.02 for CIFAR-100, with weight 1). The teacher is asked about the copy too. Ours:
    /// the sign is of the student's way alone, with the teacher's output as it is (released code: through both networks), and
    /// of the whole loss, `cam` included (SynQ: without).
    #[serde(default)]
    pub perturb: f32,
    #[serde(default = "one")]
    pub perturb_weight: f32,
    /// Whether the copy's loss has `feature_alignment` (HAST; SynQ: only for ImageNet). It never has `cam`, as in SynQ.
    #[serde(default = "yes")]
    pub perturb_alignment: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inundation: Option<InundationRecipe>,
}

fn one() -> f32 {
    1.0
}

fn yes() -> bool {
    true
}

/// What steps the student's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentOptimizer {
    /// Nesterov's, with `momentum` and `weight_decay`: GDFQ and all that follow it.
    #[default]
    Sgd,
    /// Betas 0.9 and 0.999, no weight decay (ours; against SGD: docs/methods.md).
    Adam,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StudentSchedule {
    Constant,
    /// Half a cosine from `lr` to 0 over the student's iterations.
    Cosine,
    /// A tenth after each quarter of them, as GDFQ's 400 epochs do.
    MultiStep,
}

impl StudentSchedule {
    /// The factors over `steps` student iterations.
    pub fn over(self, steps: u64) -> Schedule {
        match self {
            Self::Constant => Schedule::Constant,
            Self::Cosine => Schedule::Cosine { warmup: 0, total: steps.max(1), floor: 0.0 },
            Self::MultiStep => {
                Schedule::MultiStep { milestones: vec![steps / 4, steps / 2, 3 * steps / 4], gamma: 0.1 }
            }
        }
    }
}

/// How convolution and batch norm run under running statistics; outputs and gradients are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BnMode {
    /// As two operations.
    #[default]
    Eval,
    /// As one, with scaled filters (You et al., ICLR 2024).
    Tune,
}

/// Precision of a GPU's products; sums are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MathName {
    F32,
    /// Operands rounded to 10 mantissa bits, on tensor cores: what PyTorch's convolutions do by default.
    #[default]
    Tf32,
    /// To 7 mantissa bits.
    Bf16,
}

impl From<MathName> for Math {
    fn from(name: MathName) -> Self {
        match name {
            MathName::F32 => Self::F32,
            MathName::Tf32 => Self::Tf32,
            MathName::Bf16 => Self::Bf16,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SteName {
    Identity,
    Clipped,
    Lsq,
}

impl Recipe {
    /// The recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is plain data")
    }

    /// Whether the generator is ever stepped.
    pub fn trains_generator(&self) -> bool {
        self.warmup > 0 || (self.generator.every > 0 && self.iters > 0)
    }

    /// Whether any image comes from the generator.
    pub fn uses_generator(&self) -> bool {
        let stored = self.images.as_ref().filter(|i| i.count > 0);
        self.trains_generator() || stored.is_none_or(|i| i.from_generator || (self.iters > 0 && i.share < 1.0))
    }

    /// Whether the images of the data-free criterion are stored images set aside: without warm-up the generator's would
    /// be noise.
    pub fn sets_images_aside(&self) -> bool {
        self.warmup == 0 && self.images.as_ref().is_some_and(|i| i.count > 0)
    }

    /// Number of images of the data-free criterion, a multiple of the batch: as many as there are stored ones, and 512 at
    /// most. Of stored images themselves a quarter as many are set aside.
    pub fn held_out(&self) -> usize {
        const MOST: usize = 512;
        let stored = self.images.as_ref().map_or(0, |i| i.count);
        let budget =
            if stored > 0 { stored } else { usize::try_from(self.iters).unwrap_or(MOST).saturating_mul(self.batch) };
        let count = if self.sets_images_aside() { stored / 4 } else { budget };
        count.clamp(1, MOST).next_multiple_of(self.batch)
    }

    /// Number of stored images that a run makes or is given, those set aside among them: whole batches.
    pub fn stored_images(&self) -> usize {
        let stored = self.images.as_ref().map_or(0, |i| i.count.next_multiple_of(self.batch));
        stored + if self.sets_images_aside() { self.held_out() } else { 0 }
    }

    /// What the student is trained for on perturbed copies.
    pub fn copy_loss(&self) -> StudentLoss {
        let mut loss = StudentLoss { cam: None, ..self.student_loss.clone() };
        if !self.student.perturb_alignment {
            loss.feature_alignment = None;
        }
        loss
    }

    /// The bit widths as the quantize pass takes them.
    pub fn quantize_spec(&self) -> crate::graph::passes::QuantizeSpec {
        crate::graph::passes::QuantizeSpec {
            wbits: self.wbits,
            abits: self.abits,
            first_bits: self.first_bits,
            last_bits: self.last_bits,
            input_bits: self.input_bits,
            layer_bits: self.layer_bits.clone(),
        }
    }
}
