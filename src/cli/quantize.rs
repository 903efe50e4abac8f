//! `ghostbit quantize`: the main job.

use super::deployed;
use super::network::{NetworkArgs, QUANT_KEY, test_sets};
use crate::data::Normalization;
use crate::device::Device;
use crate::methods::{Losses, Recipe};
use crate::report::curves::{Series, curves};
use crate::report::png::save_grid;
use crate::report::table::Table;
use crate::tensor::io::replace_file;
use crate::train::log::{MetricsLog, write_json};
use crate::train::{Accuracy, Diagnosis, Event, QuantizeRun, Selected, Summary, Tally, TestSet};
use crate::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Test set for the report: cifar10:FILE, idx:IMAGES,LABELS, builtin:test; may be repeated. Never trained on
    #[arg(long = "eval")]
    sets: Vec<String>,
    /// Recipe: a name of `methods list`, or a .toml file
    #[arg(long, default_value = "best")]
    method: String,
    /// Change one key of the recipe, e.g. student.lr=1e-4; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Bits of weights
    #[arg(long)]
    wbits: Option<u8>,
    /// Bits of activations
    #[arg(long)]
    abits: Option<u8>,
    /// Bits of the first layer's weights, when they differ
    #[arg(long)]
    first_bits: Option<u8>,
    /// Bits of the last layer's weights, when they differ
    #[arg(long)]
    last_bits: Option<u8>,
    /// Bits of the images as the first layer sees them; 32 leaves them f32
    #[arg(long)]
    input_bits: Option<u8>,
    /// Images per iteration
    #[arg(long)]
    batch: Option<usize>,
    /// Iterations, warm-up included
    #[arg(long)]
    iters: Option<u64>,
    #[arg(long)]
    seed: Option<u64>,
    /// Run folder [default: runs/ARCH-METHOD-wWaA-sSEED]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Continue the run in this folder
    #[arg(long, conflicts_with_all = ["out", "method", "set", "model", "sets", "wbits", "abits", "first_bits", "last_bits", "input_bits", "batch", "iters", "seed"])]
    resume: Option<PathBuf>,
    /// Write a checkpoint every N iterations (0: only on Ctrl-C)
    #[arg(long, default_value_t = 200)]
    checkpoint_every: u64,
    /// On a GPU, launch kernel by kernel instead of recording each kind of step as one graph
    #[arg(long)]
    no_capture: bool,
    /// Print the resolved recipe and stop
    #[arg(long)]
    show_recipe: bool,
    /// Print summary.json instead of the table
    #[arg(long)]
    json: bool,
}

/// What a run folder records about how it was made; enough to resume.
#[derive(Serialize, Deserialize)]
struct RunConfig {
    ghostbit: String,
    arch: String,
    model: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<usize>,
    eval: Vec<String>,
    recipe: Recipe,
}

pub fn run(args: Args, device: &Device, why: &str) -> Result<()> {
    let start = Instant::now();
    let (config, folder) = resolve(&args)?;
    if args.show_recipe {
        print!("{}", config.recipe.to_toml());
        return Ok(());
    }
    let network = NetworkArgs { arch: Some(config.arch.clone()), model: config.model.clone(), classes: config.classes };
    let teacher = network.load(device)?;
    let sets = test_sets(&config.eval, &network, Some(&teacher.graph))?;
    let mut run = QuantizeRun::new(device, teacher, Normalization::CIFAR, config.recipe.clone())?;
    if args.no_capture {
        run = run.without_graphs();
    }
    let metrics = folder.join("metrics.jsonl");
    let log = if args.resume.is_some() {
        run.resume(&folder)?;
        MetricsLog::resume(&metrics, run.it + 1)?
    } else {
        prepare(&folder)?;
        replace_file(folder.join("config.toml"), to_toml(&config)?.as_bytes())?;
        MetricsLog::create(&metrics)?
    };
    if !args.json {
        let r = &config.recipe;
        println!("{} ({}) -> W{}A{}, recipe {}", config.arch, network.origin(), r.wbits, r.abits, r.name);
        println!("device {}: {why}", device.name());
    }
    let stop = super::interrupt_flag()?;
    let mut display = Display::new(&config.recipe, log, run.it, &sets, args.json)?;
    let mut summary = run.run(&sets, &folder, args.checkpoint_every, &stop, &mut |e| display.on(e))?;
    display.bar.finish_and_clear();
    save_grid(folder.join("samples.png"), &run.samples(64)?, &Normalization::CIFAR)?;
    display.plot(&folder)?;
    let synthetic = run.diagnose()?;
    let Selected { network: mut selected, tally, settled } = run.into_selected(&sets, &summary)?;
    summary.selected = tally;
    let mut document = document(&summary, &sets, &config, start.elapsed().as_secs_f64(), device, why);
    document["settled_channels"] = json!(settled);
    document["synthetic"] = synthetic.iter().map(|(name, d)| (name.to_string(), json!(d))).collect();
    let mut file = selected.to_checkpoint()?;
    let spec = serde_json::to_string(&config.recipe.quantize_spec()).expect("plain data");
    file.metadata.insert(QUANT_KEY.into(), spec);
    file.save(folder.join("quantized.safetensors"))?;
    document["files"] = deployed::write(&mut selected, &folder)?;
    write_json(folder.join("summary.json"), &document)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&document).expect("plain data"));
    } else {
        print_table(&summary, &sets);
        print_synthetic(&synthetic);
        deployed::print(&document["files"]);
        let (seconds, rss) = (start.elapsed().as_secs_f64(), super::peak_rss_mib());
        println!("{seconds:.0} s, peak memory {rss:.0} MiB, device {} ({why})", device.name());
        println!("run folder {}", folder.display());
    }
    Ok(())
}

fn resolve(args: &Args) -> Result<(RunConfig, PathBuf)> {
    if let Some(folder) = &args.resume {
        let path = folder.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::file(&path, e))?;
        let config: RunConfig = toml::from_str(&text).map_err(|e| Error::file(&path, e))?;
        return Ok((config, folder.clone()));
    }
    let mut recipe = Recipe::load(&args.method)?;
    // --iters alone keeps the recipe's share of warm-up only when it still fits; a shorter run warms up for less.
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    recipe.wbits = args.wbits.unwrap_or(recipe.wbits);
    recipe.abits = args.abits.unwrap_or(recipe.abits);
    recipe.first_bits = args.first_bits.or(recipe.first_bits);
    recipe.last_bits = args.last_bits.or(recipe.last_bits);
    recipe.input_bits = match args.input_bits {
        Some(32) => None,
        given => given.or(recipe.input_bits),
    };
    recipe.batch = args.batch.unwrap_or(recipe.batch);
    recipe.seed = args.seed.unwrap_or(recipe.seed);
    if let Some(iters) = args.iters {
        recipe.iters = iters;
        recipe.warmup = recipe.warmup.min(iters);
    }
    recipe.validate()?;
    let name =
        format!("{}-{}-w{}a{}-s{}", args.network.short_arch(), recipe.name, recipe.wbits, recipe.abits, recipe.seed);
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
    let config = RunConfig {
        ghostbit: env!("CARGO_PKG_VERSION").into(),
        arch: args.network.arch(),
        model: args.network.model.clone(),
        classes: args.network.classes,
        eval: args.sets.clone(),
        recipe,
    };
    Ok((config, folder))
}

fn to_toml(config: &RunConfig) -> Result<String> {
    toml::to_string(config).map_err(|e| Error::config("config.toml", e.to_string()))
}

/// Makes the run folder and checks that it can be written before any work is done.
fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::file(folder, format!("cannot be created: {e}; choose another --out")))
}

/// Progress bar, metrics file, and the points of the final plot.
struct Display {
    bar: ProgressBar,
    log: MetricsLog,
    sets: Vec<String>,
    generator: TermCurves,
    student: TermCurves,
    accuracy: Vec<Vec<(f64, f64)>>,
    quiet: bool,
}

impl Display {
    fn new(recipe: &Recipe, log: MetricsLog, it: u64, sets: &[TestSet], quiet: bool) -> Result<Self> {
        let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(recipe.iters) };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed} of about {duration}  {msg}");
        bar.set_style(style.map_err(|e| Error::config("progress bar", e.to_string()))?);
        bar.set_position(it);
        bar.reset_eta();
        Ok(Self {
            bar,
            log,
            sets: sets.iter().map(|s| s.name.clone()).collect(),
            generator: TermCurves::default(),
            student: TermCurves::default(),
            accuracy: vec![Vec::new(); sets.len()],
            quiet,
        })
    }

    fn on(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Generator { it, losses: l } => {
                self.bar.set_position(it);
                self.bar.set_message(format!("generator {:.3}", l.total));
                self.generator.add(it, &l);
                self.log.write(&json!({"step": it, "generator_loss": l.total, "terms": by_name(&l)}))
            }
            Event::Images { done, of, loss } => {
                self.bar.set_message(format!("images, batch {done}/{of}, loss {loss:.3}"));
                self.log.write(&json!({"image_batch": done, "loss": loss}))
            }
            Event::Student { it, losses: l } => {
                self.bar.set_position(it);
                self.bar.set_message(format!("student {:.4}", l.total));
                self.student.add(it, &l);
                self.log.write(&json!({"step": it, "student_loss": l.total, "terms": by_name(&l)}))
            }
            Event::Block { report: r, done, of } => {
                self.bar.set_message(format!("block {done}/{of}, error {:.4} -> {:.4}", r.before, r.after));
                self.log.write(&json!({"block": r.name, "before": r.before, "after": r.after, "kept": r.kept}))
            }
            Event::Eager { why } => {
                if !self.quiet {
                    self.bar.suspend(|| println!("steps are launched kernel by kernel, not as graphs: {why}"));
                }
                Ok(())
            }
            Event::Evaluated { tally, phase } => {
                for (points, a) in self.accuracy.iter_mut().zip(&tally.accuracy) {
                    points.push((tally.it as f64, a.top1()));
                }
                if !self.quiet {
                    self.bar.suspend(|| println!("{}", line(tally, phase)));
                }
                let top1: serde_json::Map<String, serde_json::Value> =
                    self.sets.iter().cloned().zip(tally.accuracy.iter().map(|a| json!(a.top1()))).collect();
                self.log.write(&json!({"step": tally.it, "phase": phase, "top1": top1,
                    "agreement": tally.agreement, "divergence": tally.divergence}))
            }
        }
    }

    fn plot(&self, folder: &Path) -> Result<()> {
        let mut panels =
            vec![("generator".to_string(), self.generator.series()), ("student".into(), self.student.series())];
        if self.accuracy.iter().any(|a| !a.is_empty()) {
            let series = self.sets.iter().zip(&self.accuracy).map(|(n, a)| Series::new(short(n), a.clone())).collect();
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

fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn line(t: &Tally, phase: &str) -> String {
    let top1: Vec<String> = t.accuracy.iter().map(|a| format!("{:.2} %", a.top1())).collect();
    let (agreement, top1) = (100.0 * t.agreement, top1.join("  "));
    format!("{:>6}  {phase:<13}  top-1 {top1}  agreement {agreement:.1} %  divergence {:.4}", t.it, t.divergence)
}

fn document(
    s: &Summary,
    sets: &[TestSet],
    config: &RunConfig,
    seconds: f64,
    device: &Device,
    why: &str,
) -> serde_json::Value {
    let by_set = |a: &[Accuracy]| -> serde_json::Value {
        sets.iter().zip(a).map(|(s, a)| (s.name.clone(), json!(a.top1()))).collect::<serde_json::Map<_, _>>().into()
    };
    json!({
        "ghostbit": config.ghostbit, "arch": config.arch, "model": config.model, "recipe": config.recipe,
        "fp_top1": by_set(&s.fp), "ptq_top1": by_set(&s.ptq.accuracy), "last_top1": by_set(&s.last.accuracy),
        "selected_top1": by_set(&s.selected.accuracy), "selected_step": s.selected.it,
        "selected_agreement": s.selected.agreement, "selected_divergence": s.selected.divergence,
        "best_top1": by_set(&s.best),
        "seconds": seconds, "peak_rss_mib": super::peak_rss_mib(), "device": device.name(), "device_reason": why,
    })
}

fn print_table(s: &Summary, sets: &[TestSet]) {
    let mut table = Table::new(["test set", "full precision", "calibrated only", "last", "selected", "best on test*"]);
    for (i, set) in sets.iter().enumerate() {
        let cell = |a: &[Accuracy]| a.get(i).map_or("-".into(), |a| format!("{:.2} %", a.top1()));
        let best = cell(&s.best);
        table.row([
            short(&set.name).to_string(),
            cell(&s.fp),
            cell(&s.ptq.accuracy),
            cell(&s.last.accuracy),
            cell(&s.selected.accuracy),
            best,
        ]);
    }
    println!("{table}");
    println!("selected: step {} by smallest divergence from the teacher on synthetic images", s.selected.it);
    println!("* chosen on the test set, as papers report it; for comparison only");
}

fn print_synthetic(found: &[(&str, Diagnosis)]) {
    let mut table = Table::new([
        "synthetic images",
        "label agreement",
        "BN distance",
        "correlation",
        "centre spread",
        "attention eval/batch",
        "class separation",
    ]);
    for (name, d) in found {
        let cell = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
        table.row([
            (*name).to_string(),
            format!("{:.1} %", 100.0 * d.label_agreement),
            format!("{:.3}", d.bn_distance),
            format!("{:.3}", d.correlation),
            cell(d.center_spread),
            cell(d.attention_similarity),
            cell(d.separation),
        ]);
    }
    println!("{table}");
}
