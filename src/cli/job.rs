//! A quantization as a run folder: checks, the run, its record and its files. `quantize` does one.

use super::deployed;
use super::network::{NORMALIZATION_KEY, NetworkArgs, QUANT_KEY};
use crate::device::Device;
use crate::graph::{Graph, Network};
use crate::methods::{Losses, Recipe};
use crate::report::curves::{Series, curves};
use crate::report::png::save_grid;
use crate::tensor::io::replace_file;
use crate::train::log::{MetricsLog, write_json};
use crate::train::{Accuracy, Diagnosis, Event, QuantizeRun, Selected, Summary, TestSet};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// What a run folder records about how it was made; enough to resume.
#[derive(Clone, Serialize, Deserialize)]
pub struct RunConfig {
    pub ghostbit: String,
    pub arch: String,
    pub model: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_size: Option<Vec<usize>>,
    pub eval: Vec<String>,
    /// The user's images in place of synthetic ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// Changes that the default recipe made for this network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<String>,
    pub recipe: Recipe,
}

impl RunConfig {
    /// That of a new run, by this version of the program. With `images` the recipe takes them instead of its own. Errors if
    /// the recipe makes no sense.
    pub fn new(network: &NetworkArgs, eval: &[String], images: Option<&str>, mut recipe: Recipe) -> Result<Self> {
        if images.is_some() {
            recipe.take_images();
        }
        recipe.validate()?;
        Ok(Self {
            ghostbit: env!("CARGO_PKG_VERSION").into(),
            arch: network.arch(),
            model: network.model.clone(),
            classes: network.classes,
            mean: network.mean.clone(),
            std: network.std.clone(),
            output: network.output.clone(),
            input_size: network.input_size.clone(),
            eval: eval.to_vec(),
            images: images.map(str::to_string),
            adapted: Vec::new(),
            recipe,
        })
    }

    /// Fits the recipe, the default one, to the network, and records how. `asked` are assignments `KEY=VALUE` of the user.
    pub fn adapt(&mut self, teacher: &Graph, asked: &[String]) -> Result<()> {
        self.adapted = self.recipe.adapt(teacher, asked);
        self.recipe.validate()
    }

    /// That of the run in `folder`. Errors name its file.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        toml::from_str(&text).map_err(|e| Error::file(&path, e))
    }

    /// The text of its file.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::config("config.toml", e.to_string()))
    }

    /// Arguments that name the same network.
    pub fn network(&self) -> NetworkArgs {
        NetworkArgs {
            arch: Some(self.arch.clone()),
            model: self.model.clone(),
            classes: self.classes,
            mean: self.mean.clone(),
            std: self.std.clone(),
            output: self.output.clone(),
            input_size: self.input_size.clone(),
        }
    }

    /// What a run folder is called: ARCH-METHOD-wWaA-sSEED.
    pub fn name(&self) -> String {
        let r = &self.recipe;
        format!("{}-{}-w{}a{}-s{}", self.network().short_arch(), r.name, r.wbits, r.abits, r.seed)
    }
}

/// A run that is about to go, or to go on.
pub struct Job<'a> {
    pub run: QuantizeRun,
    config: &'a RunConfig,
    folder: &'a Path,
    sets: &'a [TestSet],
    record: Record<'a>,
}

/// Results of a finished job.
pub struct Done {
    pub summary: Summary,
    pub synthetic: Vec<(&'static str, Diagnosis)>,
    /// What is in summary.json.
    pub document: Value,
}

impl<'a> Job<'a> {
    /// Starts a run of `teacher` on its device in `folder`, or goes on from the checkpoint there.
    pub fn new(
        config: &'a RunConfig,
        folder: &'a Path,
        teacher: Network,
        sets: &'a [TestSet],
        resume: bool,
    ) -> Result<Self> {
        let norm = config.network().normalization()?.unwrap_or_default();
        let mut run = QuantizeRun::new(&teacher.device(), teacher, norm, config.recipe.clone())?;
        let metrics = folder.join("metrics.jsonl");
        if resume {
            run.resume(folder)?;
        }
        if let (Some(spec), true) = (&config.images, run.wants_images()) {
            let (most, seed) = (config.recipe.stored_images(), config.recipe.seed);
            let images = super::images::load(spec, &run.teacher.graph, &norm, most, seed, &run.teacher.device())?;
            run.give_images(images)?;
        }
        let log = if resume {
            MetricsLog::resume(&metrics, run.it, run.calibrated())?
        } else {
            prepare(folder)?;
            replace_file(folder.join("config.toml"), config.to_toml()?.as_bytes())?;
            MetricsLog::create(&metrics)?
        };
        Ok(Self { run, config, folder, sets, record: Record::new(log, sets) })
    }

    /// Runs to the end and writes the folder's files; on `stop` a checkpoint and no more. `start` and `why` (this device)
    /// go to the summary.
    pub fn finish(
        self,
        start: Instant,
        why: &str,
        checkpoint_every: u64,
        stop: &AtomicBool,
        tell: &mut dyn FnMut(&Event),
    ) -> Result<Done> {
        let Self { mut run, config, folder, sets, mut record } = self;
        let device = run.teacher.device();
        let mut summary = run.run(sets, folder, checkpoint_every, stop, &mut |e| {
            tell(&e);
            record.on(&e)
        })?;
        let norm = run.norm;
        save_grid(folder.join("samples.png"), &run.samples(64)?, &norm)?;
        record.plot(folder)?;
        let synthetic = run.diagnose()?;
        let Selected { network: mut selected, tally, settled } = run.into_selected(sets, &summary)?;
        summary.selected = tally;
        let mut document = document(&summary, sets, config, start.elapsed().as_secs_f64(), &device, why);
        document["settled_channels"] = json!(settled);
        document["images"] = json!(config.images);
        document["adapted"] = json!(config.adapted);
        document["synthetic"] = synthetic.iter().map(|(name, d)| (name.to_string(), json!(d))).collect();
        let mut file = selected.to_checkpoint()?;
        let spec = serde_json::to_string(&config.recipe.quantize_spec()).expect("plain data");
        file.metadata.insert(QUANT_KEY.into(), spec);
        file.metadata.insert(NORMALIZATION_KEY.into(), serde_json::to_string(&norm).expect("plain data"));
        file.save(folder.join("quantized.safetensors"))?;
        document["files"] = deployed::write(&mut selected, norm, folder)?;
        write_json(folder.join("summary.json"), &document)?;
        Ok(Done { summary, synthetic, document })
    }
}

/// Makes the run folder and checks that it can be written before any work is done.
fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::file(folder, format!("cannot be created: {e}; choose another --out")))
}

/// Metrics file, and the points of the final plot.
struct Record<'a> {
    log: MetricsLog,
    sets: &'a [TestSet],
    generator: TermCurves,
    student: TermCurves,
    accuracy: Vec<Vec<(f64, f64)>>,
}

impl<'a> Record<'a> {
    fn new(log: MetricsLog, sets: &'a [TestSet]) -> Self {
        let (generator, student) = (TermCurves::default(), TermCurves::default());
        Self { log, sets, generator, student, accuracy: vec![Vec::new(); sets.len()] }
    }

    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Generator { it, losses: l } => {
                self.generator.add(*it, l);
                self.log.write(&json!({"step": it, "generator_loss": l.total, "terms": by_name(l)}))
            }
            Event::Images { done, loss, .. } => self.log.write(&json!({"image_batch": done, "loss": loss})),
            Event::Student { it, losses: l } => {
                self.student.add(*it, l);
                self.log.write(&json!({"step": it, "student_loss": l.total, "terms": by_name(l)}))
            }
            Event::Block { report: r, .. } => {
                self.log.write(&json!({"block": r.name, "before": r.before, "after": r.after, "kept": r.kept}))
            }
            Event::Eager { .. } => Ok(()),
            Event::Evaluated { tally, phase } => {
                for (points, a) in self.accuracy.iter_mut().zip(&tally.accuracy) {
                    points.push((tally.it as f64, a.top1()));
                }
                let top1 = by_set(self.sets, &tally.accuracy);
                self.log.write(&json!({"step": tally.it, "phase": phase, "top1": top1,
                    "agreement": tally.agreement, "divergence": tally.divergence}))
            }
        }
    }

    fn plot(&self, folder: &Path) -> Result<()> {
        let mut panels =
            vec![("generator".to_string(), self.generator.series()), ("student".into(), self.student.series())];
        if self.accuracy.iter().any(|a| !a.is_empty()) {
            let named = self.sets.iter().zip(&self.accuracy);
            let series = named.map(|(s, a)| Series::new(short(&s.name), a.clone())).collect();
            panels.push(("top-1 %".into(), series));
        }
        panels.retain(|(_, series)| series.iter().any(|s| !s.points.is_empty()));
        if panels.is_empty() { Ok(()) } else { curves(folder.join("curves.png"), &panels) }
    }
}

/// One curve per loss term.
#[derive(Default)]
struct TermCurves(Vec<(&'static str, Vec<(f64, f64)>)>);

impl TermCurves {
    fn add(&mut self, it: u64, losses: &Losses) {
        for (name, v) in &losses.terms {
            let point = (it as f64, f64::from(*v));
            match self.0.iter_mut().find(|(n, _)| n == name) {
                Some((_, points)) => points.push(point),
                None => self.0.push((name, vec![point])),
            }
        }
    }
    fn series(&self) -> Vec<Series> {
        self.0.iter().map(|(name, points)| Series::new(*name, points.clone())).collect()
    }
}

fn by_name(losses: &Losses) -> serde_json::Map<String, serde_json::Value> {
    losses.terms.iter().map(|(n, v)| (n.to_string(), json!(v))).collect()
}

/// Last part of a test set's name.
pub fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Top-1 in percent by test set.
fn by_set(sets: &[TestSet], a: &[Accuracy]) -> Value {
    sets.iter().zip(a).map(|(s, a)| (s.name.clone(), json!(a.top1()))).collect()
}

fn document(s: &Summary, sets: &[TestSet], config: &RunConfig, seconds: f64, device: &Device, why: &str) -> Value {
    let by_set = |a: &[Accuracy]| by_set(sets, a);
    json!({
        "ghostbit": config.ghostbit, "arch": config.arch, "model": config.model, "recipe": config.recipe,
        "fp_top1": by_set(&s.fp), "ptq_top1": by_set(&s.ptq.accuracy), "last_top1": by_set(&s.last.accuracy),
        "selected_top1": by_set(&s.selected.accuracy), "selected_step": s.selected.it,
        "selected_agreement": s.selected.agreement, "selected_divergence": s.selected.divergence,
        "best_top1": by_set(&s.best),
        "seconds": seconds, "peak_rss_mib": super::peak_rss_mib(), "device": device.name(), "device_reason": why,
    })
}
