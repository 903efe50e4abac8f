//! Recipes: which loss terms, sampler, quantizer and schedule make up a method. Plain data and small terms.

mod adapt;
mod embedded;
mod host;
mod inundation;
mod loss;
mod recipe;
mod reconstruction;
mod set;
pub mod terms;
mod validate;

pub use inundation::InundationRecipe;
pub use loss::{GeneratorLoss, Losses, StudentLoss, Total};
pub use recipe::{
    ActivationRanges, BnMode, EmaName, GeneratorRecipe, ImagesRecipe, ImagesSchedule, MathName, RangesRecipe, Recipe,
    SteName, StudentOptimizer, StudentRecipe, StudentSchedule, WeightRanges,
};
pub use reconstruction::ReconstructionRecipe;
