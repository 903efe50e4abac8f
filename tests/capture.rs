//! Training steps as captured graphs, on the emulated GPU: the same results bit for bit, no waiting, steady memory, and
//! errors that say where.

#![cfg(feature = "emulator")]

use ghostbit::Error;
use ghostbit::data::Normalization;
use ghostbit::device::{Device, driver};
use ghostbit::graph::Network;
use ghostbit::methods::Recipe;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::tensor::Tensor;
use ghostbit::train::{Event, QuantizeRun};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

/// One test at a time: failures are injected into the process's next launches.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// The `n`-th launch from now on fails.
fn fail_at(n: i64) {
    // SAFETY: the emulator is loaded for good, and this is the function's type.
    unsafe {
        let library = libloading::Library::new(driver::emulated().expect("the emulator is loaded")).unwrap();
        let set: extern "C" fn(i64) = *library.get(b"simt_set_fail_at").unwrap();
        std::mem::forget(library);
        set(n);
    }
}

fn recipe(name: &str, set: &[&str]) -> Recipe {
    let mut r = Recipe::load(name).unwrap();
    // In f32, as the emulator takes its time for tensor cores.
    for s in ["batch=2", "warmup=4", "iters=10", "eval_every=10", "math=f32"].iter().chain(set) {
        r.set(s).unwrap();
    }
    r
}

fn start(device: &Device, recipe: &Recipe) -> QuantizeRun {
    let teacher = Network::new(device, cifar_resnet(1, 10), 7).unwrap();
    QuantizeRun::new(device, teacher, Normalization::CIFAR, recipe.clone()).unwrap()
}

fn quiet(_: Event) -> ghostbit::Result<()> {
    Ok(())
}

fn advance(run: &mut QuantizeRun, n: u64) {
    for _ in 0..n {
        run.advance(&mut quiet).unwrap();
    }
}

/// Every bit of the run's state.
fn state(run: &mut QuantizeRun) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    bytes(folder.path())
}

fn bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("checkpoint.safetensors")).unwrap()
}

/// A line per loss.
fn note(lines: &mut Vec<String>, e: Event) {
    match e {
        Event::Generator { it, losses } => lines.push(format!("{it} generator {losses:?}")),
        Event::Student { it, losses } => lines.push(format!("{it} student {losses:?}")),
        Event::Eager { why } => lines.push(format!("eager: {why}")),
        _ => {}
    }
}

/// GDFQ's loop: warm-up steps 2 and 3 and student steps 5 to 8 are graphs.
#[test]
fn gdfq_is_the_same_with_graphs_and_without_and_resumed() {
    let _alone = alone();
    let r = recipe("gdfq", &["warmup=3", "iters=8", "student.schedule=cosine", "student.lr=1e-2"]);
    let mut results = Vec::new();
    for graphs in [true, false] {
        let device = Device::emulator().unwrap();
        let mut run = start(&device, &r);
        if !graphs {
            run = run.without_graphs();
        }
        advance(&mut run, 3);
        assert_eq!(run.graphs(), usize::from(graphs));
        advance(&mut run, 2);
        assert_eq!(run.graphs(), 2 * usize::from(graphs));
        let before = (device.gpu().unwrap().counters(), device.memory());
        advance(&mut run, 3);
        let cost = device.gpu().unwrap().counters() - before.0;
        assert_eq!((cost.waits, cost.allocations), (0, 0), "nobody waits, nothing is allocated");
        let now = device.memory();
        assert_eq!((now.peak, now.reserved, now.live), (before.1.peak, before.1.reserved, before.1.live));
        if graphs {
            assert_eq!((cost.graphs, cost.launches, cost.recorded), (3, 3, 0), "one graph and its numbers per step");
        } else {
            assert!(cost.graphs == 0 && cost.launches > 300);
        }
        let mut losses = Vec::new();
        run.read_losses(&mut |e| {
            note(&mut losses, e);
            Ok(())
        })
        .unwrap();
        assert_eq!(losses.len(), 3 + 2 * 5);
        results.push((losses, state(&mut run)));
    }
    assert_eq!(results[0].0, results[1].0);
    assert!(results[0].1 == results[1].1, "the state differs");

    // Interrupted among the replays, and between two runs.
    let device = Device::emulator().unwrap();
    let mut run = start(&device, &r);
    advance(&mut run, 6);
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    let mut resumed = start(&device, &r);
    resumed.resume(folder.path()).unwrap();
    advance(&mut resumed, 2);
    assert!(state(&mut resumed) == results[0].1, "resumed, the state differs");
}

/// Adam, stored images cropped, a generator step now and then: what `best` does, with learned ranges, its images made,
/// its ranges calibrated and an evaluation between the steps, in a whole run.
#[test]
fn best_is_the_same_with_graphs_and_without() {
    let _alone = alone();
    let set = ["warmup=3", "iters=12", "eval_every=5", "images.count=4", "images.iters=1", "ranges.batches=1"];
    let set = [&set[..], &["ranges.lr=2e-4"]].concat();
    let mut r = recipe("best", &set);
    r.reconstruction = None;
    let mut results = Vec::new();
    for graphs in [true, false] {
        let device = Device::emulator().unwrap();
        let mut run = start(&device, &r);
        if !graphs {
            run = run.without_graphs();
        }
        let held: Vec<f32> = (0..2 * 32 * 32 * 3).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let logits = Tensor::from_slice(&device, [2, 10], &[0.1f32; 20]).unwrap();
        run.held_out = vec![(Tensor::from_slice(&device, [2, 32, 32, 3], &held).unwrap(), logits)];
        let folder = tempfile::tempdir().unwrap();
        let mut losses = Vec::new();
        run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |e| {
            note(&mut losses, e);
            Ok(())
        })
        .unwrap();
        assert_eq!(run.graphs(), 2 * usize::from(graphs), "steps on stored images and on fresh ones");
        assert_eq!(losses.iter().filter(|l| l.starts_with("eager")).count(), 0);
        let replays = device.gpu().unwrap().counters().graphs;
        assert!(if graphs { replays >= 2 + 5 + 2 } else { replays == 0 }, "{replays}");
        results.push((losses, state(&mut run)));
    }
    assert_eq!(results[0].0, results[1].0);
    assert!(results[0].1 == results[1].1, "the state differs");
}

/// What comes between warm-up and student: stored images, some cropped, and learned rounding, block by block.
#[test]
fn images_and_blocks_are_the_same_with_graphs_and_without() {
    let _alone = alone();
    let short = ["warmup=0", "iters=0", "images.count=4", "images.iters=5", "images.augment=0.5", "ranges.batches=1"];
    let terms = ["images.loss.bn_stats.weight=1", "images.loss.cross_entropy.weight=0.1"];
    let blocks = ["reconstruction.iters=6", "reconstruction.batch=4"];
    let ways = [["images.schedule=plateau", "images.swing=false"], ["images.roll=3", "images.swing=true"]];
    for way in ways {
        let r = recipe("genie", &[&short[..], &terms, &blocks, &way].concat());
        let mut results = Vec::new();
        for graphs in [true, false] {
            let device = Device::emulator().unwrap();
            let mut run = start(&device, &r);
            if !graphs {
                run = run.without_graphs();
            }
            let folder = tempfile::tempdir().unwrap();
            let mut seen = Vec::new();
            run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |e| {
                match e {
                    Event::Images { loss, .. } => seen.push(format!("images {loss}")),
                    Event::Block { report, .. } => seen.push(format!("{report:?}")),
                    e => note(&mut seen, e),
                }
                Ok(())
            })
            .unwrap();
            let (blocks, batches) = (5, seen.iter().filter(|l| l.starts_with("images")).count() as u64);
            assert!(batches >= 2 && seen.iter().filter(|l| l.starts_with("BlockReport")).count() == blocks, "{seen:?}");
            // Of each kind all but the first: images with crops and without, and in each block five with the penalty.
            let replays = device.gpu().unwrap().counters().graphs;
            let most = 5 * batches + 4 * blocks as u64;
            assert!(if graphs { (most - 2..most).contains(&replays) } else { replays == 0 }, "{replays} of {most}");
            results.push((seen, state(&mut run)));
        }
        assert_eq!(results[0].0, results[1].0, "{way:?}");
        assert!(results[0].1 == results[1].1, "{way:?}: the state differs");
    }
}

#[test]
fn a_failure_in_a_graph_names_it_and_keeps_the_checkpoint() {
    let _alone = alone();
    let device = Device::emulator().unwrap();
    let mut run = start(&device, &recipe("gdfq", &[]));
    advance(&mut run, 3);
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    let kept = bytes(folder.path());
    // The first launch writes the step's numbers.
    fail_at(40);
    let e = run.advance(&mut quiet).unwrap_err().to_string();
    fail_at(0);
    for word in ["graph 'warm-up, generator step'", "injected failure", "kernel "] {
        assert!(e.contains(word), "no {word:?} in: {e}");
    }
    assert!(bytes(folder.path()) == kept);
}

/// As a GPU that is lost: launches seem to succeed, everything later fails. In a process of its own, as the driver does not
/// recover.
#[test]
fn a_lost_device_names_what_was_queued_last_and_keeps_the_checkpoint() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "lost_device", "--ignored", "--nocapture"])
        .env("SIMT_STICKY", "1")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
}

#[test]
#[ignore = "run by the test above with SIMT_STICKY=1"]
fn lost_device() {
    let device = Device::emulator().unwrap();
    let mut run = start(&device, &recipe("gdfq", &[]));
    advance(&mut run, 3);
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    let kept = bytes(folder.path());
    fail_at(40);
    run.advance(&mut quiet).expect("a launch does not know yet");
    let e = run.checkpoint(folder.path()).unwrap_err().to_string();
    assert!(e.contains("queued last") || e.contains("injected failure"), "{e}");
    assert!(run.advance(&mut quiet).is_err(), "the device is gone");
    assert!(bytes(folder.path()) == kept);
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_at_the_next_reading() {
    let _alone = alone();
    let device = Device::emulator().unwrap();
    let mut run = start(&device, &recipe("gdfq", &["warmup=1"]));
    advance(&mut run, 3);
    let folder = tempfile::tempdir().unwrap();
    run.checkpoint(folder.path()).unwrap();
    let kept = bytes(folder.path());
    let bias = run.student.network.graph.head("test").unwrap().bias.unwrap();
    run.student.network.params.get(&bias).unwrap().write(&[f32::NAN; 10]).unwrap();
    advance(&mut run, 2);
    let e = run.checkpoint(folder.path()).unwrap_err();
    let named = matches!(&e, Error::NonFinite { step: 4, term, .. } if term == "student_loss.cross_entropy");
    assert!(named, "{e}");
    assert!(bytes(folder.path()) == kept);
}

#[test]
fn what_a_graph_cannot_hold_is_named_and_steps_go_on_without() {
    let _alone = alone();
    let device = Device::emulator().unwrap();
    let gpu = device.gpu().unwrap();
    let one = Tensor::scalar(&device, 1.0).unwrap();
    let refused = |work: &dyn Fn() -> ghostbit::Result<()>| gpu.capture("test", work).err().unwrap().to_string();
    assert!(refused(&|| one.item().map(|_| ())).contains("a download of 4 bytes while a graph is recorded"));
    assert!(refused(&|| Tensor::scalar(&device, 2.0).map(|_| ())).contains("an upload of 4 bytes"));
    assert!(refused(&|| device.synchronize()).contains("a wait while"));
    let kept = Mutex::new(None);
    let outlives = refused(&|| {
        *kept.lock().unwrap() = Some(Tensor::zeros(&device, [3], ghostbit::tensor::DType::F32)?);
        Ok(())
    });
    assert!(outlives.contains("1 buffers made in it outlive"), "{outlives}");
    assert_eq!(one.item().unwrap(), 1.0);

    // Declared beforehand.
    let mut run = start(&device, &recipe("gdfq", &["generator_loss.soft_label.weight=1"]));
    let mut lines = Vec::new();
    for _ in 0..3 {
        run.advance(&mut |e| {
            note(&mut lines, e);
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(lines, ["eager: generator_loss.soft_label needs the host in every step"]);
    assert_eq!(run.graphs(), 0);

    // Not foreseen: the margins are forgotten, and making them anew reads from the device.
    let slack = ["teacher_bn=eval", "generator_loss.slack_stats.weight=1", "generator_loss.slack_stats.enhance=false"];
    let mut run = start(&device, &recipe("gdfq", &slack));
    advance(&mut run, 1);
    run.generator.memory.margins = None;
    lines.clear();
    for _ in 0..2 {
        run.advance(&mut |e| {
            note(&mut lines, e);
            Ok(())
        })
        .unwrap();
    }
    assert!(lines.len() == 1 && lines[0].starts_with("eager: recording failed") && lines[0].contains("download"));
    let mut plain = start(&device, &recipe("gdfq", &slack)).without_graphs();
    advance(&mut plain, 3);
    assert!(state(&mut plain) == state(&mut run), "the state differs");
}

/// Buffers made between two replays and kept: graphs are recorded anew when they would write there.
#[test]
fn graphs_make_way_for_buffers_that_stay() {
    let _alone = alone();
    let r = recipe("gdfq", &[]);
    let device = Device::emulator().unwrap();
    let mut run = start(&device, &r);
    advance(&mut run, 3);
    // More of the images' size than the pool has outside of graphs.
    let keep: Vec<Tensor> =
        (0..40).map(|_| Tensor::from_slice(&device, [2 * 32 * 32 * 3], &[7f32; 6144]).unwrap()).collect();
    let recorded = || device.gpu().unwrap().counters().recorded;
    let before = recorded();
    advance(&mut run, 1);
    assert!(recorded() > before, "recorded anew");
    assert!(keep.iter().all(|t| t.to_vec::<f32>().unwrap().iter().all(|v| *v == 7.0)));
    let mut plain = start(&Device::emulator().unwrap(), &r).without_graphs();
    advance(&mut plain, 4);
    assert!(state(&mut plain) == state(&mut run), "the state differs");
}
