//! Recipes: which loss terms, sampler, quantizer and schedule make up a method. Plain data.

mod recipe;

pub use recipe::{
    GeneratorRecipe, ImagesRecipe, KlReductionName, RangesRecipe, Recipe, SteName, StudentRecipe, StudentSchedule,
    ActivationRanges, EmaName, WeightRanges,
};
