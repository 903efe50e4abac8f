//! Ranges from a trained generator or stored images, after warm-up.

use super::generator_step::GeneratorStep;
use super::images::ImagePool;
use super::student_step::StudentStep;
use crate::Result;
use crate::graph::RangeMode;
use crate::methods::{ActivationRanges, EmaName, Recipe, WeightRanges};
use crate::ops::observe::EmaForm;
use crate::tensor::{DType, Tensor};

/// Draws of calibration batches, away from the loop's.
const DRAW_BASE: u64 = 1 << 41;

/// The recipe's way to follow activation ranges.
pub(super) fn tracking(recipe: &Recipe) -> RangeMode {
    let form = match recipe.ranges.ema {
        EmaName::Textbook => EmaForm::Textbook,
        EmaName::Legacy => EmaForm::Legacy,
    };
    match recipe.ranges.activations {
        ActivationRanges::MinMax => RangeMode::TrackMinMax(form),
        ActivationRanges::Search => RangeMode::TrackSearch(form),
    }
}

/// Sets all ranges: weights from their values, activations from `recipe.ranges.batches` batches (stored images where
/// there are any, alternating with the generator's).
pub(super) fn calibrate(
    student: &mut StudentStep,
    generator: &mut GeneratorStep,
    pool: Option<&ImagePool>,
    recipe: &Recipe,
) -> Result<()> {
    set_weight_ranges(student, recipe)?;
    student.network.reset_range_tracking()?;
    for b in 0..recipe.ranges.batches {
        let images = match pool {
            Some(p) => p.in_order(b as usize, recipe.batch)?.0,
            None => generator.sample(recipe.batch, DRAW_BASE + b, false)?.0,
        };
        follow(student, &images, recipe)?;
    }
    Ok(())
}

/// Moves the activation ranges by what `images` give, after what a zero image gives if the recipe asks for one.
pub(super) fn follow(student: &mut StudentStep, images: &Tensor, recipe: &Recipe) -> Result<()> {
    if recipe.ranges.zero_image {
        let mut shape = images.shape().to_vec();
        shape[0] = 1;
        let zero = Tensor::zeros(&images.device(), shape.as_slice(), DType::F32)?;
        student.observe(&zero, tracking(recipe))?;
    }
    student.observe(images, tracking(recipe)).map(|_| ())
}

/// Narrows the calibrated activation ranges as the recipe says; once, when they are final.
pub(super) fn clip(student: &mut StudentStep, recipe: &Recipe) -> Result<()> {
    if recipe.ranges.clip == 1.0 { Ok(()) } else { student.network.scale_activation_ranges(recipe.ranges.clip) }
}

/// Weight ranges by the recipe's rule. Also done at the start and, for min/max, at the end, so that the stored ranges
/// always describe the stored weights.
pub(super) fn set_weight_ranges(student: &mut StudentStep, recipe: &Recipe) -> Result<()> {
    match recipe.ranges.weights {
        WeightRanges::MinMax => student.network.weight_ranges_min_max(),
        WeightRanges::Search => student.network.weight_ranges_search(),
    }
}
