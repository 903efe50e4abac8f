//! What a recipe may say, and what of it a teacher can serve: every refusal names its key.

use super::recipe::{ActivationRanges, BnMode, ImagesRecipe, Recipe, SteName, StudentOptimizer, WeightRanges};
use crate::graph::Graph;
use crate::graph::passes::{QuantizeSpec, quantize};
use crate::{Error, Result};
use std::collections::BTreeMap;

fn require(key: &str, ok: bool, what: &str) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(key, what)) }
}

fn finite(key: &str, v: f32) -> Result<()> {
    let ok = v.is_finite() && v >= 0.0;
    if ok { Ok(()) } else { Err(Error::config(key, format!("{v} must be finite and not negative"))) }
}

fn probability(key: &str, v: f32) -> Result<()> {
    require(key, (0.0..=1.0).contains(&v), "must lie in 0..=1")
}

fn share(key: &str, v: f32) -> Result<()> {
    require(key, 0.0 < v && v <= 1.0, "must lie above 0 and up to 1")
}

/// Whether a term is there and counts.
fn on(weight: Option<f32>) -> bool {
    weight.is_some_and(|w| w > 0.0)
}

impl Recipe {
    /// Refuses what cannot work, naming the key.
    pub fn validate(&self) -> Result<()> {
        require("batch", self.batch >= 2, "must be at least 2 (batch statistics need more than one sample)")?;
        require("seed", i64::try_from(self.seed).is_ok(), "must be below 2^63 (what TOML can write)")?;
        require("warmup", self.warmup <= self.iters, "cannot exceed iters")?;
        require("eval_every", self.eval_every >= 1, "must be at least 1")?;
        self.check_generator()?;
        self.images.as_ref().map_or(Ok(()), check_images)?;
        let needs = self.images.iter().fold(self.generator_loss.needs(), |n, i| n.and(i.loss.needs()));
        require(
            "teacher_bn",
            self.teacher_bn == BnMode::Eval || !needs.bn_inputs,
            "tune has no inputs of batch norms, which a term of this recipe looks at; use eval",
        )?;
        self.check_untrained_generator()?;
        self.check_ranges()?;
        self.reconstruction.as_ref().map_or(Ok(()), |r| r.check(self))?;
        self.check_student()?;
        // Names of layers are the network's affair.
        quantize(&Graph::probe(), QuantizeSpec { layer_bits: BTreeMap::new(), ..self.quantize_spec() }).map(|_| ())
    }

    fn check_generator(&self) -> Result<()> {
        let g = &self.generator;
        finite("generator.lr", g.lr)?;
        require("generator.latent", g.latent >= 1, "must be at least 1")?;
        require("generator.paired", !g.paired || self.batch % 2 == 0, "pairs need an even batch")?;
        probability("generator.augment", g.augment)?;
        share("generator.augment_scale", g.augment_scale)?;
        require(
            "generator.center_low",
            0.0 <= g.center_low && g.center_low < g.center_high && g.center_high <= 1.0,
            "needs 0 <= center_low < center_high <= 1",
        )?;
        require(
            "generator_loss.attention_center",
            !on(self.generator_loss.attention_center.as_ref().map(|t| t.weight)) || g.condition.has_center(),
            "matches centres that the generator must know; set generator.condition=label_center",
        )?;
        require(
            "generator_loss.pair",
            !on(self.generator_loss.pair.as_ref().map(|t| t.weight)) || g.paired,
            "compares pairs; set generator.paired=true",
        )?;
        require(
            "generator_loss.marginal_distance",
            !on(self.generator_loss.marginal_distance.as_ref().map(|t| t.weight)),
            "compares batches of stored images with the ones before; use it in images.loss",
        )?;
        self.generator_loss.check(None).map_err(|e| e.within("generator_loss"))?;
        let idle = !self.trains_generator() || !self.generator_loss.terms().is_empty();
        require("generator_loss", idle, "has no term with a weight above 0")
    }

    fn check_ranges(&self) -> Result<()> {
        let r = &self.ranges;
        finite("ranges.lr", r.lr)?;
        share("ranges.clip", r.clip)?;
        require(
            "ranges.batches",
            r.batches > 0 || (r.activations == ActivationRanges::MinMax && self.warmup > 0),
            "0 means tracking during warm-up, which needs warmup > 0 and activations = \"min_max\"",
        )?;
        require(
            "ranges.lr",
            r.lr == 0.0 || (self.student.ste == SteName::Lsq && r.weights == WeightRanges::Search),
            "learning ranges needs student.ste = \"lsq\" and ranges.weights = \"search\"",
        )
    }

    fn check_student(&self) -> Result<()> {
        let s = &self.student;
        for (key, v) in [
            ("student.lr", s.lr),
            ("student.weight_decay", s.weight_decay),
            ("student.low_pass", s.low_pass),
            ("student.perturb", s.perturb),
            ("student.perturb_weight", s.perturb_weight),
        ] {
            finite(key, v)?;
        }
        self.student_loss.check(None).map_err(|e| e.within("student_loss"))?;
        require("student_loss", !self.student_loss.terms().is_empty(), "has no term with a weight above 0")?;
        require(
            "student.momentum",
            0.0 < s.momentum && s.momentum < 1.0,
            "must lie above 0 and below 1 (the step is Nesterov's)",
        )?;
        s.inundation.as_ref().map_or(Ok(()), |i| i.check(s.weight_decay))?;
        let inundated = s.inundation.as_ref().is_some_and(|i| i.tau > 0.0);
        require(
            "student.optimizer",
            s.optimizer == StudentOptimizer::Sgd || (s.weight_decay == 0.0 && !inundated),
            "adam knows neither student.weight_decay nor student.inundation; set them to 0 or use sgd",
        )?;
        require(
            "student.perturb",
            s.perturb == 0.0 || !self.copy_loss().terms().is_empty(),
            "no term of student_loss is left for the copy, which has no cam (nor feature_alignment without student.perturb_alignment)",
        )
    }

    /// Refuses what a generator that is not trained (in time) would have to serve.
    fn check_untrained_generator(&self) -> Result<()> {
        let refuse = |key: &str, detail: &str| Err(Error::config(key, detail));
        let aside = self.images.as_ref().filter(|_| self.sets_images_aside());
        if self.images.as_ref().is_some_and(|i| i.given) {
            require("images.given", aside.is_some(), "leaves no room for warm-up; set warmup=0 and images.count")?;
        }
        if self.iters == 0 && aside.is_none_or(|i| i.from_generator) {
            return refuse("iters", "must be at least 1, or stored noise images be all there is (as in recipe zeroq)");
        }
        let Some(images) = aside else { return Ok(()) };
        if images.from_generator {
            return refuse("images.from_generator", "needs a generator trained before the images are made; set warmup");
        }
        if self.trains_generator() || self.iters == 0 {
            return Ok(());
        }
        if images.share < 1.0 {
            return refuse("images.share", "must be 1: the other batches come from a generator that is never trained");
        }
        if !images.given
            && on(self.student_loss.cross_entropy.as_ref().map(|t| t.weight))
            && !on(images.loss.cross_entropy.as_ref().map(|t| t.weight))
        {
            let detail = "needs images that belong to their labels; set images.loss.cross_entropy.weight";
            return refuse("student_loss.cross_entropy", detail);
        }
        Ok(())
    }

    /// Refuses terms that `teacher` cannot serve, before anything is trained.
    pub fn check_teacher(&self, teacher: &Graph) -> Result<()> {
        if self.trains_generator() {
            self.generator_loss.check(Some(teacher)).map_err(|e| e.within("generator_loss"))?;
        }
        if let Some(images) = self.images.as_ref().filter(|i| i.count > 0 && !i.given) {
            images.loss.check(Some(teacher)).map_err(|e| e.within("images.loss"))?;
        }
        self.student_loss.check(Some(teacher)).map_err(|e| e.within("student_loss"))
    }
}

fn check_images(images: &ImagesRecipe) -> Result<()> {
    probability("images.share", images.share)?;
    require("images.share", images.share == 0.0 || images.count > 0, "asks for stored images, but images.count is 0")?;
    finite("images.lr", images.lr)?;
    finite("images.min_lr", images.min_lr)?;
    require("images.patience", images.patience >= 1, "must be at least 1")?;
    require("images.roll", images.roll <= 4096, "must be at most 4096 pixels")?;
    probability("images.augment", images.augment)?;
    probability("images.train_augment", images.train_augment)?;
    share("images.augment_scale", images.augment_scale)?;
    images.loss.check(None).map_err(|e| e.within("images.loss"))?;
    let names: Vec<&str> = images.loss.terms().iter().map(|t| t.name()).collect();
    let live = ["adaptability", "attention_center", "cluster", "pair"];
    if let Some(term) = live.iter().find(|t| names.contains(t)) {
        let detail = "looks at conditions, pairs, other batches or the student, which stored images lack; use it in generator_loss";
        return Err(Error::config(format!("images.loss.{term}"), detail));
    }
    require("images.loss", images.given || !images.loss.terms().is_empty(), "has no term with a weight above 0")
}
