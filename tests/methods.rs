//! Every embedded recipe runs, and every one of its terms does something.

use ghostbit::autograd::{Tape, Var};
use ghostbit::data::Normalization;
use ghostbit::device::Device;
use ghostbit::graph::Network;
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::low_pass::low_pass;
use ghostbit::ops::observe::EmaForm;
use ghostbit::optim::inundation::flips;
use ghostbit::tensor::Tensor;
use ghostbit::train::{Event, QuantizeRun, Synthetic};
use std::sync::atomic::AtomicBool;

/// A few iterations on four images.
fn short(name: &str, set: &[String]) -> Recipe {
    let mut r = Recipe::load(name).unwrap();
    // Recipes of stored images alone have no warm-up.
    let warmup = if r.trains_generator() { "warmup=2" } else { "warmup=0" };
    for s in ["batch=4", "iters=4", warmup, "eval_every=4"] {
        r.set(s).unwrap();
    }
    if r.images.is_some() {
        // Two batches at least: what the second is compared with is the first.
        for s in ["images.count=8", "images.iters=2", "ranges.batches=1"] {
            r.set(s).unwrap();
        }
    }
    if r.student_loss.cross_entropy.as_ref().is_some_and(|t| t.gate < 1.0) {
        // The untrained teacher is unsure of every label: none would pass.
        r.set("student_loss.cross_entropy.gate=0.99").unwrap();
    }
    if r.reconstruction.is_some() {
        r.set("reconstruction.iters=2").unwrap();
    }
    if r.generator_loss.cluster.is_some() {
        // The untrained teacher agrees with one label in ten, and only such samples make centres.
        for s in ["batch=32", "generator_loss.cluster.start=0", "generator_loss.cluster.every=1"] {
            r.set(s).unwrap();
        }
    }
    for s in set {
        r.set(s).unwrap();
    }
    r
}

fn start(recipe: &Recipe) -> QuantizeRun {
    let cpu = Device::cpu();
    // ResNet-8: every node kind of the family.
    let teacher = Network::new(&cpu, cifar_resnet(1, 10), 7).unwrap();
    QuantizeRun::new(&cpu, teacher, Normalization::CIFAR, recipe.clone()).unwrap()
}

#[test]
fn every_recipe_runs_and_reports_all_its_terms() {
    for name in Recipe::names() {
        let recipe = short(name, &[]);
        let mut run = start(&recipe);
        let folder = tempfile::tempdir().unwrap();
        let (mut generator, mut student) = (Vec::new(), Vec::new());
        run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |e| {
            match e {
                Event::Generator { losses, .. } => generator = losses.terms,
                Event::Student { losses, .. } => student = losses.terms,
                _ => {}
            }
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{name}: {e}"));
        let names = |terms: &[(&'static str, f32)]| terms.iter().map(|t| t.0).collect::<Vec<_>>();
        let of_recipe: Vec<_> = recipe.generator_loss.terms().iter().map(|t| t.name()).collect();
        assert_eq!(names(&generator), of_recipe, "{name}");
        let of_recipe: Vec<_> = recipe.student_loss.terms().iter().map(|t| t.name()).collect();
        assert_eq!(names(&student), of_recipe, "{name}");
        assert!(generator.iter().chain(&student).all(|t| t.1.is_finite()), "{name}: {generator:?} {student:?}");
    }
}

/// The generator's parameters after three steps.
fn generator_after(recipe: &Recipe) -> Vec<f32> {
    let mut run = start(recipe);
    for it in 1..=3 {
        run.generator.step(&mut run.teacher, &mut run.student, recipe.batch, it).unwrap();
    }
    run.generator.network.params.values().to_vec().unwrap()
}

#[test]
fn a_generator_term_without_weight_changes_the_generator() {
    for name in Recipe::names() {
        if !short(name, &[]).trains_generator() {
            continue;
        }
        let with = generator_after(&short(name, &[]));
        for term in short(name, &[]).generator_loss.terms() {
            // Alone, a term has nothing to be removed from.
            if short(name, &[]).generator_loss.terms().len() == 1 {
                continue;
            }
            let without = generator_after(&short(name, &[format!("generator_loss.{}.weight=0", term.name())]));
            assert!(with != without, "{name}: {} passes no gradient", term.name());
        }
    }
}

/// The student's parameters after one step on fresh images.
fn student_after(recipe: &Recipe) -> Vec<f32> {
    let mut run = start(recipe);
    run.timed_iteration(1).unwrap();
    run.student.network.params.values().to_vec().unwrap()
}

#[test]
fn a_student_term_without_weight_changes_the_student() {
    for name in Recipe::names() {
        let recipe = short(name, &[]);
        let terms = recipe.student_loss.terms();
        // Alone, a term has nothing to be removed from.
        if terms.len() == 1 {
            continue;
        }
        let with = student_after(&recipe);
        for term in terms {
            let without = student_after(&short(name, &[format!("student_loss.{}.weight=0", term.name())]));
            assert!(with != without, "{name}: {} passes no gradient", term.name());
        }
    }
}

/// The student learns from filtered images, and the teacher's word on them is taken anew.
#[test]
fn the_low_pass_filter_reaches_both_networks() {
    let plain = start(&short("gdfq", &[]));
    let (mut plain, mut filtered) = (plain, start(&short("gdfq", &["student.low_pass=2".into()])));
    let (made, _) = plain.generator.step(&mut plain.teacher, &mut plain.student, 4, 1).unwrap();
    let mut tape = Tape::inference(&Device::cpu());
    let images = low_pass(&mut tape, &Var::constant(made.images.clone()), 2.0).unwrap().value;
    let by_hand =
        Synthetic { teacher_logits: Some(plain.teacher_logits(&images).unwrap()), images, labels: made.labels.clone() };
    let losses = |run: &mut QuantizeRun, batch: &Synthetic| run.student.step(&mut run.teacher, batch, 3).unwrap();
    let unfiltered = losses(&mut start(&short("gdfq", &[])), &made);
    assert_eq!(losses(&mut filtered, &made), losses(&mut plain, &by_hand));
    assert_ne!(losses(&mut start(&short("gdfq", &["student.low_pass=2".into()])), &made), unfiltered);
}

/// The stored images, and what was set aside.
fn images_of(recipe: &Recipe) -> (Vec<f32>, Vec<f32>) {
    let mut run = start(recipe);
    let folder = tempfile::tempdir().unwrap();
    run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
    let aside = run.held_out.iter().flat_map(|(x, _)| x.to_vec::<f32>().unwrap()).collect();
    (run.pool.unwrap().images.to_vec().unwrap(), aside)
}

#[test]
fn an_image_term_without_weight_changes_the_images() {
    for name in Recipe::names() {
        let short = |set: &[String]| short(name, &[&["iters=2".to_string()], set].concat());
        let Some(images) = short(&[]).images.filter(|i| i.count > 0) else { continue };
        let with = images_of(&short(&[]));
        for term in images.loss.terms() {
            let without = images_of(&short(&[format!("images.loss.{}.weight=0", term.name())]));
            assert!(with != without, "{name}: {} passes no gradient", term.name());
        }
        let cropped = images_of(&short(&["images.augment=1".into()]));
        assert!(with != cropped, "{name}: crops do nothing");
        let shifted = images_of(&short(&["images.roll=5".into()]));
        assert!(images.roll == 5 || with != shifted, "{name}: shifts do nothing");
        let swung = images_of(&short(&[format!("images.swing={}", !images.swing)]));
        assert!(with != swung, "{name}: swing convolution does nothing");
    }
}

/// ACQ's attention by Grad-CAM is another map, and its gradients reach the generator.
#[test]
fn attention_may_be_grad_cam() {
    for key in ["attention_center.attention", "attention_consistency.attention", "pair.on"] {
        let (own, other) = if key == "pair.on" { ("attention", "grad_cam") } else { ("activation", "grad_cam") };
        let after = |value: &str, weight: &str| {
            let term = key.split('.').next().unwrap();
            let set = [format!("generator_loss.{key}=\"{value}\""), format!("generator_loss.{term}.weight={weight}")];
            generator_after(&short("acq", &set))
        };
        let grad_cam = after(other, "10");
        assert!(grad_cam.iter().all(|v| v.is_finite()));
        assert!(grad_cam != after(own, "10"), "{key}: both maps give the same");
        assert!(grad_cam != after(other, "0"), "{key}: Grad-CAM passes no gradient");
    }
}

/// Stored images reach the student cropped, with the teacher's word on the crops.
#[test]
fn stored_images_are_cropped_for_the_student() {
    let after = |set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        let mut run = start(&short("intraq", &set));
        let folder = tempfile::tempdir().unwrap();
        run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
        let pool = run.pool.unwrap();
        (pool.images.to_vec::<f32>().unwrap(), run.student.network.params.values().to_vec::<f32>().unwrap())
    };
    let (with, without) = (after(&[]), after(&["images.train_augment=0"]));
    assert!(with.0 == without.0 && with.1 != without.1);
    // Whole images that are not flipped half of the time: some crop is the image itself, but not all are.
    let whole = after(&["images.augment_scale=1"]);
    assert!(whole.1 != without.1);
}

/// Without warm-up the criterion's images are stored ones that nobody else sees, and survive a checkpoint.
#[test]
fn without_a_generator_stored_images_are_set_aside() {
    let recipe = short("zeroq", &["images.count=10".into()]);
    let (pool, aside) = images_of(&recipe);
    // 10 images are three batches of 4; a quarter of them, one batch, comes on top.
    assert_eq!((pool.len() / 3072, aside.len() / 3072), (12, 4));
    assert!(!pool.chunks(3072).any(|x| x == &aside[..3072]));
    let go = |run: &mut QuantizeRun, folder: &std::path::Path| {
        let summary = run.run(&[], folder, 3, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
        (run.student.network.params.values().to_vec::<f32>().unwrap(), summary.last.divergence)
    };
    let folder = tempfile::tempdir().unwrap();
    let straight = go(&mut start(&recipe), folder.path());
    let mut resumed = start(&recipe);
    resumed.resume(folder.path()).unwrap();
    assert_eq!(resumed.it, 3);
    assert!(go(&mut resumed, folder.path()) == straight);
    // No student step at all: the calibrated network is the result.
    let mut run = start(&short("zeroq", &["iters=0".into()]));
    let summary = run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
    assert_eq!((summary.last.it, summary.selected.it), (0, 0));
    assert!(summary.last.divergence.is_finite() && summary.last.agreement > 0.0);
}

/// HAST's second copy: its loss is larger than the images' own, its gradient counts, a term can be kept out of it.
#[test]
fn the_perturbed_copy_is_harder_and_trains() {
    let step = |set: &[&str]| {
        let bits = ["wbits=8", "abits=8", "student_loss.feature_alignment.weight=10"];
        let set: Vec<String> = bits.iter().chain(set).map(|s| s.to_string()).collect();
        let mut run = start(&short("gdfq", &set));
        let (made, _) = run.generator.step(&mut run.teacher, &mut run.student, 4, 1).unwrap();
        let tracking = ghostbit::graph::RangeMode::TrackMinMax(EmaForm::Textbook);
        run.student.observe(&made.images, tracking).unwrap();
        let losses = run.student.step(&mut run.teacher, &made, 3).unwrap();
        (losses, run.student.network.params.values().to_vec::<f32>().unwrap())
    };
    let plain = step(&[]);
    let copied = step(&["student.perturb=0.02"]);
    assert_eq!(copied.0.terms, plain.0.terms, "terms are told of the images themselves");
    let own = plain.0.total;
    assert!(copied.0.total - own > own, "the copy's loss {} is not above {own}", copied.0.total - own);
    assert!(copied.1 != plain.1, "the copy's gradient does not count");
    let half = step(&["student.perturb=0.02", "student.perturb_weight=0.5"]).0.total;
    assert!(((half - own) * 2.0 - (copied.0.total - own)).abs() < 1e-4 * own);
    let bare = step(&["student.perturb=0.02", "student.perturb_alignment=false"]).0.total;
    assert!(bare < copied.0.total, "feature_alignment was not left out: {bare}");
    assert_eq!(step(&["student.perturb=0.02", "student.perturb_weight=0"]), plain);
    // Learned ranges have gradients of both images too.
    let learned = |perturb: &str| student_after(&short("best", &["ranges.lr=2e-4".into(), perturb.into()]));
    assert!(learned("student.perturb=0.02") != learned("student.perturb=0"));
}

/// AIT: a step flips at least the asked share of every weight tensor's codes, where a plain one flips next to none.
#[test]
fn inundation_flips_codes_of_every_weight_tensor() {
    const TAU: f64 = 0.02;
    for (recipe, ranges) in [("gdfq", "min_max"), ("gdfq", "search")] {
        let shares = |set: &[&str]| {
            let all =
                ["student.weight_decay=0", "student.lr=1e-9", &format!("ranges.weights={ranges}")].map(String::from);
            let set: Vec<String> = all.into_iter().chain(set.iter().map(|s| s.to_string())).collect();
            let mut run = start(&short(recipe, &set));
            run.timed_iteration(1).unwrap();
            let network = &run.student.network;
            let weights = network.graph.quantizers().into_iter().filter(|q| q.weight);
            let before = start(&short(recipe, &set));
            let shares: Vec<f64> = weights
                .map(|q| {
                    let (old, new) =
                        (before.student.network.params.get(&q.name).unwrap(), network.params.get(&q.name).unwrap());
                    let taken: Vec<f32> = old.host::<f32>().iter().zip(new.host::<f32>()).map(|(o, n)| o - n).collect();
                    let taken = Tensor::from_slice(&Device::cpu(), old.shape(), &taken).unwrap();
                    let ends = ["lo", "hi"].map(|e| network.ranges.get(&format!("{}.{e}", q.name)).unwrap());
                    let fixed = (ranges == "search").then_some([&ends[0], &ends[1]]);
                    flips(&old, &taken, 1.0, q.bits, fixed).unwrap()
                })
                .collect();
            shares
        };
        let tau = format!("student.inundation.tau={TAU}");
        let lengthened = shares(&[&tau, "student.inundation.cap=0"]);
        // One code of the smallest tensor is more than the share.
        assert!(lengthened.iter().all(|s| *s >= 0.9 * TAU), "{ranges}: {lengthened:?}");
        // An end of a range that moves flips many codes at once.
        assert!(lengthened.iter().all(|s| *s < 10.0 * TAU), "{ranges}: {lengthened:?}");
        for little in [&[][..], &["student.inundation.tau=0"], &[&tau, "student.inundation.cap=1"]] {
            let plain = shares(little);
            assert!(plain.iter().all(|s| *s < 0.1 * TAU), "{ranges} {little:?}: {plain:?}");
        }
    }
}

/// Clipping is a factor on calibrated ranges; a zero image pulls them towards its own.
#[test]
fn activation_ranges_are_clipped_and_see_a_zero_image_on_request() {
    for name in ["gdfq", "best"] {
        let ranges = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let mut recipe = short(name, &[&["iters=2".into()], &set[..]].concat());
            // It learns the ranges anew.
            recipe.reconstruction = None;
            let mut run = start(&recipe);
            let folder = tempfile::tempdir().unwrap();
            run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
            let network = &run.student.network;
            let activations = network.graph.quantizers().into_iter().filter(|q| !q.weight);
            let end = |q: &str, end: &str| network.ranges.get(&format!("{q}.{end}")).unwrap().item().unwrap();
            activations.map(|q| (end(&q.name, "lo"), end(&q.name, "hi"))).collect::<Vec<_>>()
        };
        let plain = ranges(&[]);
        for ((lo, hi), (clipped_lo, clipped_hi)) in plain.iter().zip(ranges(&["ranges.clip=0.5"])) {
            assert_eq!((0.5 * lo, 0.5 * hi), (clipped_lo, clipped_hi), "{name}");
        }
        let zero = ranges(&["ranges.zero_image=true"]);
        let lower = plain.iter().zip(&zero).filter(|(p, z)| z.1 < p.1).count();
        assert!(lower > plain.len() / 2, "{name}: {plain:?} {zero:?}");
    }
}

/// Tune mode computes what eval mode does, teacher and student: losses and both networks' gradients after one iteration.
#[test]
fn tune_mode_trains_as_eval_mode_does() {
    let run = |set: &[String]| {
        let mut run = start(&short("gdfq", set));
        let (made, generator) = run.generator.step(&mut run.teacher, &mut run.student, 4, 1).unwrap();
        run.student.observe(&made.images, ghostbit::graph::RangeMode::TrackMinMax(EmaForm::Textbook)).unwrap();
        let student = run.student.step(&mut run.teacher, &made, 3).unwrap();
        let losses: Vec<f32> = generator.terms.iter().chain(&student.terms).map(|t| t.1).collect();
        let grads = |n: &mut Network| n.params.flat().unwrap().1.to_vec::<f32>().unwrap();
        (losses, grads(&mut run.generator.network), grads(&mut run.student.network))
    };
    // 8 bits: at 4 a value at the edge between two codes would jump by a fifteenth of its range.
    let bits = ["wbits=8".to_string(), "abits=8".to_string()];
    let eval = run(&[&bits[..], &["teacher_bn=eval".into(), "student.bn=eval".into()]].concat());
    let tune = run(&[&bits[..], &["teacher_bn=tune".into(), "student.bn=tune".into()]].concat());
    let apart = |a: &[f32], b: &[f32]| {
        let top = a.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
        a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / top
    };
    assert!(apart(&eval.0, &tune.0) < 1e-4, "losses {:?} {:?}", eval.0, tune.0);
    let (generator, student) = (apart(&eval.1, &tune.1), apart(&eval.2, &tune.2));
    println!("generator {generator:.1e} student {student:.1e}");
    // Rounding through a few layers; the student's also through codes that fall to the other side.
    assert!(generator < 1e-4, "generator's gradient differs by {generator:.1e}");
    assert!(student < 2.5e-2, "student's gradient differs by {student:.1e}");
    assert!(eval.1.iter().any(|g| *g != 0.0) && eval.2.iter().any(|g| *g != 0.0));
    let refused = Recipe::load("dsg").and_then(|mut r| r.set("teacher_bn=tune").and_then(|()| r.validate()));
    assert!(refused.unwrap_err().to_string().contains("teacher_bn"));
}

/// Class centres are state: a run that continues from a checkpoint equals one that was not interrupted.
#[test]
fn class_centres_survive_a_checkpoint() {
    let recipe = short("clusterq", &["batch=16".into(), "iters=5".into()]);
    let go = |run: &mut QuantizeRun, folder: &std::path::Path| {
        run.run(&[], folder, 3, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
        let state = |n: &Network| n.params.values().to_vec::<f32>().unwrap();
        let centres =
            run.generator.memory.centroids.iter().map(|c| c.mean.to_vec::<f32>().unwrap()).collect::<Vec<_>>();
        (state(&run.generator.network), state(&run.student.network), centres)
    };
    let folder = tempfile::tempdir().unwrap();
    let straight = go(&mut start(&recipe), folder.path());
    let mut resumed = start(&recipe);
    resumed.resume(folder.path()).unwrap();
    assert_eq!(resumed.it, 3);
    assert!(go(&mut resumed, folder.path()) == straight);
    assert!(straight.2.iter().flatten().any(|v| *v != 0.0), "no centre was ever set");
}

#[test]
fn what_a_network_cannot_serve_is_refused_before_training() {
    let cases: &[(&str, &[&str], &str)] = &[
        ("gdfq", &["generator_loss.pair.weight=1"], "generator.paired"),
        ("gdfq", &["generator_loss.bn_stats.weight=-1"], "generator_loss.bn_stats.weight"),
        ("gdfq", &["student_loss.kl.temperature=0"], "student_loss.kl.temperature"),
        ("dsg", &["generator_loss.slack_stats.percentile=2"], "slack_stats.percentile"),
        ("gdfq", &["generator.paired=true", "batch=3"], "even batch"),
        ("gdfq", &["student.low_pass=-1"], "student.low_pass"),
        ("gdfq", &["student.perturb=-0.1"], "student.perturb"),
        ("gdfq", &["student.perturb_weight=inf"], "student.perturb_weight"),
        (
            "adadfq",
            &["student.perturb=0.1", "student_loss.cam.weight=1", "student_loss.entropy_difference.weight=0"],
            "student.perturb",
        ),
        ("gdfq", &["student.momentum=0"], "student.momentum"),
        ("gdfq", &["student.inundation.tau=0.01"], "student.weight_decay"),
        ("best", &["student.inundation.tau=1"], "student.inundation.tau"),
        ("best", &["student.inundation.cap=0.5"], "student.inundation.cap"),
        ("gdfq", &["ranges.clip=0"], "ranges.clip"),
        ("gdfq", &["ranges.clip=1.5"], "ranges.clip"),
        ("gdfq", &["student_loss.cam.weight=-1"], "student_loss.cam.weight"),
        ("best", &["images.loss.cluster.weight=1"], "images.loss.cluster"),
        ("best", &["warmup=0"], "images.from_generator"),
        ("zeroq", &["images.count=0", "images.share=0"], "iters"),
        ("zeroq", &["iters=5", "images.share=0.5"], "images.share"),
        ("zeroq", &["ranges.batches=0"], "ranges.batches"),
        ("zeroq", &["iters=5", "student_loss.cross_entropy.weight=1"], "student_loss.cross_entropy"),
        ("zeroq", &["images.patience=0"], "images.patience"),
        ("zeroq", &["images.min_lr=-1"], "images.min_lr"),
        ("intraq", &["images.augment=1.5"], "images.augment"),
        ("intraq", &["images.train_augment=-1"], "images.train_augment"),
        ("intraq", &["images.augment_scale=0"], "images.augment_scale"),
        ("intraq", &["images.loss.soft_label.low=2"], "soft_label.low"),
        ("intraq", &["images.loss.marginal_distance.upper=0.01"], "marginal_distance.upper"),
        ("intraq", &["images.loss.marginal_distance.lower=-1"], "marginal_distance.lower"),
        ("gdfq", &["generator_loss.marginal_distance.weight=1"], "generator_loss.marginal_distance"),
        ("dsg-ptq", &["images.roll=5000"], "images.roll"),
        ("dsg-ptq", &["images.loss.l2.weight=-1"], "images.loss.l2.weight"),
    ];
    for &(name, set, expected) in cases {
        let mut r = Recipe::load(name).unwrap();
        let outcome = set.iter().try_for_each(|s| r.set(s)).and_then(|()| r.validate());
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expected), "{set:?}: {message}");
    }
    for (given, meant) in [("clusterk", "clusterq"), ("gdqf", "gdfq")] {
        let message = Recipe::load(given).unwrap_err().to_string();
        assert!(message.contains(&format!("'{meant}'")), "{message}");
    }
}
