//! `ghostbit sweep`: its runs equal those of `quantize`, it goes on where it was stopped, and a run that fails fails alone.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

/// Exit, standard output and error of the program in `folder`, on the CPU.
fn ghostbit(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let mut command = Command::cargo_bin("ghostbit").unwrap();
    let out = command.args(["--device", "cpu", "--threads", "2"]).args(args).current_dir(folder).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let (ok, stdout, stderr) = ghostbit(folder, args);
    assert!(ok, "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

/// `n` CIFAR-10 records of arbitrary pixels.
fn images(folder: &Path, n: usize) {
    let record = |i: usize| {
        std::iter::once((i % 10) as u8).chain((0..3072).map(move |j| ((i * 31 + j * 7 + j * j / 13) % 256) as u8))
    };
    std::fs::write(folder.join("test.bin"), (0..n).flat_map(record).collect::<Vec<u8>>()).unwrap();
}

const SET: [&str; 4] = ["batch=16", "iters=3", "warmup=1", "eval_every=1"];

/// A spec of `methods`, W4A4, `seeds`.
fn spec(folder: &Path, methods: &str, seeds: &str) {
    let text =
        format!("method = {methods}\nbits = '4a4'\nseeds = {seeds}\neval = ['cifar10:test.bin']\nset = {SET:?}\n");
    std::fs::write(folder.join("spec.toml"), text).unwrap();
}

/// What a run left, apart from times: files to the byte, and the summary without what the machine says.
fn left(run: &Path) -> (Vec<Vec<u8>>, Value) {
    let files =
        ["config.toml", "metrics.jsonl", "quantized.safetensors", "integer.safetensors", "samples.png", "curves.png"];
    let mut summary: Value = serde_json::from_slice(&read(run.join("summary.json"))).unwrap();
    for key in ["seconds", "peak_rss_mib", "device", "device_reason"] {
        assert!(summary.as_object_mut().unwrap().remove(key).is_some(), "no {key}");
    }
    summary["files"].as_object_mut().unwrap().remove("speed");
    (files.iter().map(|f| read(run.join(f))).collect(), summary)
}

#[test]
fn runs_of_a_sweep_are_those_of_quantize_bit_for_bit_and_are_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    images(f, 30);
    spec(f, "'gdfq'", "'1..2'");
    let doc = json(f, &["sweep", "spec.toml", "--jobs", "2", "--json"]);
    assert_eq!((doc["jobs"].as_u64(), doc["threads_per_run"].as_u64()), (Some(2), Some(1)));
    assert_eq!((doc["finished_now"].as_u64(), doc["failed"].as_array().map(Vec::len)), (Some(2), Some(0)));
    let mut selected = Vec::new();
    for seed in ["1", "2"] {
        let name = format!("cifar-resnet20-gdfq-w4a4-s{seed}");
        let mut args = vec!["quantize", "--method", "gdfq", "--seed", seed, "--eval", "cifar10:test.bin", "--json"];
        args.extend(["--wbits", "4", "--abits", "4", "--out", &name]);
        SET.iter().for_each(|s| args.extend(["--set", s]));
        selected.push(json(f, &args)["selected_top1"]["cifar10:test.bin"].as_f64().unwrap());
        let (alone, swept) = (left(&f.join(&name)), left(&f.join("runs/spec").join(&name)));
        assert_eq!(alone.1, swept.1, "{name}");
        assert!(alone.0 == swept.0, "{name}: a file differs");
    }
    let figures = &doc["configurations"][0]["top1"]["cifar10:test.bin"]["selected_top1"];
    assert!((figures["mean"].as_f64().unwrap() - (selected[0] + selected[1]) / 2.0).abs() < 1e-9);
    assert_eq!(doc["configurations"][0]["seeds"], serde_json::json!([1, 2]));

    // One run is taken back to its last checkpoint, as if stopped there; the other is kept.
    let (kept, again) = ("runs/spec/cifar-resnet20-gdfq-w4a4-s1", "runs/spec/cifar-resnet20-gdfq-w4a4-s2");
    let before = left(&f.join(again));
    std::fs::remove_dir_all(f.join(again)).unwrap();
    let time = |run: &str| std::fs::metadata(f.join(run).join("summary.json")).unwrap().modified().unwrap();
    let made = time(kept);
    let sweep = ["sweep", "spec.toml", "--checkpoint-every", "2"];
    let (ok, stdout, stderr) = ghostbit(f, &sweep);
    assert!(ok && stdout.contains("1 finished before") && stdout.contains("runs per hour"), "{stdout}{stderr}");
    assert!(left(&f.join(again)) == before);
    std::fs::remove_file(f.join(again).join("summary.json")).unwrap();
    std::fs::remove_file(f.join(again).join("quantized.safetensors")).unwrap();
    let (ok, stdout, stderr) = ghostbit(f, &sweep);
    assert!(ok, "{stdout}{stderr}");
    let (mut resumed, mut straight) = (left(&f.join(again)), before);
    // Curves begin where the run went on.
    (resumed.0.pop(), straight.0.pop());
    assert!(resumed == straight, "the run that went on from a checkpoint differs");
    assert_eq!(time(kept), made);
    let lines = String::from_utf8(read(f.join("runs/spec/summary.jsonl"))).unwrap();
    let states: Vec<Value> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["state"].clone()).collect();
    assert_eq!(states, ["kept", "finished"]);
}

#[test]
fn a_run_that_fails_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    images(f, 20);
    let (ok, recipe, stderr) =
        ghostbit(f, &["quantize", "--method", "gdfq", "--set", "student.lr=1e30", "--show-recipe"]);
    assert!(ok && recipe.contains("name = \"gdfq\""), "{recipe}{stderr}");
    std::fs::write(f.join("wild.toml"), recipe.replace("name = \"gdfq\"", "name = \"wild\"")).unwrap();
    spec(f, "['wild.toml', 'gdfq']", "1");
    // The first losses are finite still.
    let (ok, stdout, stderr) = ghostbit(f, &["sweep", "spec.toml", "--jobs", "1", "--set", "iters=6", "--json"]);
    assert!(!ok && stderr.contains("1 of 2 runs failed") && stderr.contains("wild"), "{stderr}");
    let doc: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(doc["failed"][0]["run"], "cifar-resnet20-wild-w4a4-s1");
    assert!(doc["failed"][0]["error"].as_str().unwrap().contains("not finite"), "{doc}");
    let done: Vec<&Value> = doc["configurations"].as_array().unwrap().iter().map(|c| &c["method"]).collect();
    assert_eq!(done, ["gdfq"]);
    assert!(f.join("runs/spec/cifar-resnet20-gdfq-w4a4-s1/summary.json").is_file());

    // Other settings under the same name are not mixed with what is there.
    let (ok, _, stderr) = ghostbit(f, &["sweep", "spec.toml", "--method", "gdfq", "--set", "student.lr=1e-5"]);
    assert!(!ok && stderr.contains("other settings") && stderr.contains("--out"), "{stderr}");
}

#[test]
fn bad_grids_are_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    std::fs::write(f.join("bad.toml"), "seed = 1").unwrap();
    let cases: [(&[&str], &[&str]); 8] = [
        (&["absent.toml"], &["absent.toml"]),
        (&["bad.toml"], &["bad.toml", "seed"]),
        (&["--method", "magic"], &["--method", "magic"]),
        (&["--bits", "4x4"], &["--bits", "4x4"]),
        (&["--bits", "9a4"], &["9", "2 to 8"]),
        (&["--seeds", "3..1"], &["--seeds", "3..1"]),
        (&["--seeds", "1,1..2"], &["two runs", "-s1"]),
        (&["--jobs", "0"], &["--jobs"]),
    ];
    for (args, words) in cases {
        let (ok, _, stderr) = ghostbit(f, &[&["sweep"], args].concat());
        assert!(!ok && !stderr.contains("panicked"), "{args:?}: {stderr}");
        for word in words {
            assert!(stderr.contains(word), "{args:?}: no '{word}' in: {stderr}");
        }
        assert!(!f.join("runs").exists(), "{args:?} left a folder");
    }
}
