//! How a recipe fits itself to what it is given: the default one to the network, any one to images of the user.

use super::recipe::{ImagesRecipe, Recipe};
use super::terms::{InputStats, TotalVariation};
use crate::graph::{Graph, InputKind};
use crate::models::generator;

/// Pixels from which a generator costs more than the networks that it serves: its trunk grows with the image.
const LARGE: usize = 96 * 96;
/// Images of that size and more: how many are stored, and how many make a batch.
const LARGE_COUNT: usize = 128;
const LARGE_BATCH: usize = 16;
/// Optimisation from noise takes more and longer steps than from a generator's images: those of recipe genie.
const NOISE_ITERS: u64 = 150;
const NOISE_LR: f32 = 0.1;
/// Priors of the image where no statistics are: contrast as after normalization, and some smoothness, which must not outweigh
/// cross-entropy (weight 0.1), or images become flat.
const INPUT_STATS: f32 = 1.0;
const TOTAL_VARIATION: f32 = 1e-3;
/// Stored images and calibration batches of a recipe that has none, when images are given.
const GIVEN_COUNT: usize = 512;
const GIVEN_BATCHES: u64 = 8;

/// Keys that the caller set, which no adaptation changes.
struct Asked<'a>(&'a [String]);

impl Asked<'_> {
    /// Whether `key`, or one of its keys if it is a section, was set.
    fn has(&self, key: &str) -> bool {
        let within = |name: &str| name.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.0.iter().any(|a| a.split_once('=').is_some_and(|(name, _)| within(name.trim())))
    }
}

impl Recipe {
    /// Fits the default recipe to `teacher`: takes out what this network cannot serve, puts in what stands in for it.
    /// `asked` are assignments `KEY=VALUE` of the caller; terms with such a key stay. Returns a line for every change.
    pub fn adapt(&mut self, teacher: &Graph, asked: &[String]) -> Vec<String> {
        let asked = Asked(asked);
        let mut said = Vec::new();
        let given = self.images.as_ref().is_some_and(|i| i.given);
        if let [InputKind::Real(sample)] = &teacher.inputs[..] {
            if let [h, w, _] = sample[..] {
                said.extend(self.adapt_to_size(h, w, &asked));
            }
        }
        if teacher.running_statistics().is_empty() && !given {
            said.extend(self.adapt_to_lack_of_norms(&asked));
        }
        if teacher.compared_maps().map_or(true, |maps| maps.is_empty()) && !asked.has("student_loss.feature_mse") {
            if self.student_loss.feature_mse.take().is_some() {
                said.push("the network has no maps to compare: student_loss.feature_mse is off".into());
            }
        }
        said
    }

    fn adapt_to_size(&mut self, h: usize, w: usize, asked: &Asked) -> Vec<String> {
        let mut said = Vec::new();
        let large = h * w >= LARGE;
        let fits = h % generator::UNIT == 0 && w % generator::UNIT == 0;
        let wanted = asked.has("generator") || asked.has("images.from_generator");
        let stored = self.images.as_ref().is_some_and(|i| i.count > 0 && !i.given);
        if stored && self.trains_generator() && (!fits || large && !wanted) {
            self.drop_generator(asked.has("iters") && !asked.has("warmup"));
            if let Some(images) = &mut self.images {
                if !asked.has("images.iters") {
                    images.iters = NOISE_ITERS;
                }
                if !asked.has("images.lr") {
                    images.lr = NOISE_LR;
                }
            }
            let why = if fits { "costs more than the network" } else { "cannot make them" };
            let steps = self.iters;
            said.push(format!(
                "images of {h}x{w} are optimised from noise, as the generator {why}: no warm-up, {steps} student steps"
            ));
        }
        if large {
            if !asked.has("batch") && self.batch > LARGE_BATCH {
                self.batch = LARGE_BATCH;
                said.push(format!("batch = {LARGE_BATCH}, as images of {h}x{w} take much memory"));
            }
            if let Some(images) = self.images.as_mut().filter(|i| i.count > LARGE_COUNT && !asked.has("images.count")) {
                images.count = LARGE_COUNT;
                said.push(format!("images.count = {LARGE_COUNT}, for the same reason"));
            }
        }
        said
    }

    fn adapt_to_lack_of_norms(&mut self, asked: &Asked) -> Vec<String> {
        let mut off = Vec::new();
        if !asked.has("generator_loss.bn_stats") && self.generator_loss.bn_stats.take().is_some() {
            off.push("generator_loss.bn_stats");
        }
        let mut stand_in = "";
        if let Some(images) = &mut self.images {
            if !asked.has("images.loss.bn_stats") && images.loss.bn_stats.take().is_some() {
                off.push("images.loss.bn_stats");
                images.loss.input_stats.get_or_insert(InputStats { weight: INPUT_STATS });
                images.loss.total_variation.get_or_insert(TotalVariation { weight: TOTAL_VARIATION });
                stand_in = "; images.loss.input_stats and total_variation stand in";
            }
        }
        if off.is_empty() {
            return Vec::new();
        }
        let off = off.join(" and ");
        let verb = if off.contains(" and ") { "are" } else { "is" };
        vec![format!("the network has no batch norms, or folded ones: {off} {verb} off{stand_in}")]
    }

    /// Trains no generator: no warm-up, and all batches are stored images. What is left of the iterations are student steps;
    /// with `all` of them.
    fn drop_generator(&mut self, all: bool) {
        if !all {
            self.iters -= self.warmup.min(self.iters);
        }
        self.warmup = 0;
        self.generator.every = 0;
        let images = self.images.get_or_insert_with(|| ImagesRecipe { count: 0, ..ImagesRecipe::default() });
        (images.from_generator, images.share) = (false, 1.0);
    }

    /// Takes images that the caller hands in instead of synthetic ones: no generator, no warm-up, none optimised. Doing it
    /// again takes out a warm-up that was set since.
    pub fn take_images(&mut self) {
        self.drop_generator(false);
        if let Some(images) = &mut self.images {
            images.given = true;
            if images.count == 0 {
                images.count = GIVEN_COUNT;
            }
        }
        if self.ranges.batches == 0 {
            // They were tracked during warm-up.
            self.ranges.batches = GIVEN_BATCHES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::graph::Network;
    use crate::graph::passes::fold_bn;
    use crate::models::resnet::cifar_resnet;

    #[test]
    fn a_network_that_serves_everything_changes_nothing() {
        let mut r = Recipe::load("best").unwrap();
        let before = r.clone();
        assert!(r.adapt(&cifar_resnet(1, 10), &[]).is_empty());
        assert_eq!(r, before);
    }

    #[test]
    fn what_a_network_lacks_goes_and_what_was_asked_for_stays() {
        let network = Network::new(&Device::cpu(), cifar_resnet(1, 10), 1).unwrap();
        let mut bare = (*fold_bn(&network).unwrap().graph).clone();
        bare.inputs[0] = InputKind::Real(vec![9, 10, 3]);
        let mut r = Recipe::load("best").unwrap();
        r.set("warmup=2").unwrap();
        r.set("iters=6").unwrap();
        let said = r.adapt(&bare, &["warmup=2".into()]);
        assert!(said[0].contains("9x10") && said[0].contains("4 student steps"), "{said:?}");
        assert!(said[1].contains("generator_loss.bn_stats and images.loss.bn_stats are off"), "{said:?}");
        assert_eq!((r.warmup, r.iters, r.trains_generator()), (0, 4, false));
        r.validate().unwrap();
        r.check_teacher(&bare).unwrap();

        let mut r = Recipe::load("best").unwrap();
        r.adapt(&bare, &["images.loss.bn_stats.weight=2".into()]);
        let message = r.check_teacher(&bare).unwrap_err().to_string();
        assert!(message.contains("images.loss.bn_stats.weight") && message.contains("--method"), "{message}");
    }

    #[test]
    fn given_images_need_no_generator_in_any_recipe() {
        for name in Recipe::names() {
            let mut r = Recipe::load(name).unwrap();
            r.take_images();
            r.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!r.trains_generator() && !r.uses_generator() && r.sets_images_aside(), "{name}");
            assert_eq!(Recipe::parse(&r.to_toml(), "written").unwrap(), r);
        }
    }
}
