//! The `ghostbit` program: what it refuses (naming the file or key, leaving nothing behind), and what it prints as JSON.

#[allow(dead_code, reason = "other tests use the rest")]
mod onnx_models;

use assert_cmd::Command;
use ghostbit::device::Device;
use ghostbit::graph::Network;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::tensor::io::{Checkpoint, HostTensor};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Runs the program on the CPU in `folder`.
fn ghostbit(folder: &TempDir, args: &[&str]) -> (bool, String, String) {
    let mut command = Command::cargo_bin("ghostbit").unwrap();
    if !args.contains(&"--device") {
        command.args(["--device", "cpu"]);
    }
    let out = command.current_dir(folder.path()).args(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    list.sort();
    list
}

/// Expects failure without a panic, all of `words` in the message, and no new file.
fn refuses(folder: &TempDir, args: &[&str], words: &[&str]) {
    let before = names(folder.path());
    let (ok, _, stderr) = ghostbit(folder, args);
    assert!(!ok, "{args:?} succeeded");
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no '{word}' in: {stderr}");
    }
    assert_eq!(names(folder.path()), before, "{args:?} left files behind");
}

fn json(folder: &TempDir, args: &[&str]) -> Value {
    let (ok, stdout, stderr) = ghostbit(folder, args);
    assert!(ok, "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
}

/// Writes `name.safetensors`: an untrained ResNet-20, changed by `edit`.
fn checkpoint(folder: &TempDir, name: &str, edit: impl FnOnce(&mut Checkpoint)) -> String {
    let network = Network::new(&Device::cpu(), cifar_resnet(3, 10), 5).unwrap();
    let mut file = network.to_checkpoint().unwrap();
    edit(&mut file);
    let name = format!("{name}.safetensors");
    file.save(folder.path().join(&name)).unwrap();
    name
}

/// Writes `n` CIFAR-10 records of arbitrary pixels and returns the test set's specification.
fn cifar(folder: &TempDir, name: &str, n: usize) -> String {
    let record = |i: usize| {
        let mut r = vec![(i % 10) as u8];
        r.extend((0..3072).map(|j| ((i * 31 + j * 7 + j * j / 13) % 256) as u8));
        r
    };
    std::fs::write(folder.path().join(name), (0..n).flat_map(record).collect::<Vec<u8>>()).unwrap();
    format!("cifar10:{name}")
}

#[test]
fn bad_settings_name_their_key() {
    let f = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 16] = [
        (&["--arch", "resnet9000"], &["--arch", "resnet9000", "cifar-resnet20"]),
        (&["--method", "magic"], &["--method", "magic", "gdfq"]),
        (&["--wbits", "9"], &["--wbits", "9", "2 to 8"]),
        (&["--wbits", "1000"], &["--wbits", "1000"]),
        (&["--abits", "1"], &["--abits", "2 to 8"]),
        (&["--batch", "0"], &["batch", "at least 2"]),
        (&["--iters", "0"], &["iters", "at least 1"]),
        (&["--set", "student.rate=1"], &["--set", "student.rate", "no key 'rate'"]),
        (&["--set", "nowhere.rate=1"], &["--set", "nowhere"]),
        (&["--set", "student.lr"], &["--set", "KEY=VALUE"]),
        (&["--set", "student.lr=-1"], &["student.lr", "negative"]),
        (&["--classes", "1"], &["1 classes"]),
        (&["--input-bits", "9"], &["--input-bits", "2 to 8"]),
        (&["--mean", "0.5"], &["--mean and --std together"]),
        (&["--mean", "0.5,0.5", "--std", "0.5"], &["--mean", "2 numbers"]),
        (&["--mean", "0.5", "--std", "0"], &["--std", "above 0"]),
    ];
    for (args, words) in cases {
        refuses(&f, &[&["quantize"], args].concat(), words);
    }
    refuses(&f, &["--device", "abacus", "inspect"], &["abacus"]);
    refuses(&f, &["inspect", "--batch", "0"], &["--batch"]);
    refuses(&f, &["eval", "--eval", "builtin:nothing"], &["builtin:nothing"]);
}

#[test]
fn bad_files_are_named() {
    let f = tempfile::tempdir().unwrap();
    let good = checkpoint(&f, "good", |_| {});
    let set = cifar(&f, "test.bin", 3);
    let quantize = |model: &str, words: &[&str]| {
        refuses(&f, &["quantize", "--model", model, "--eval", &set, "--out", "run"], words);
        refuses(&f, &["eval", "--model", model, "--eval", &set], words);
    };
    quantize("absent.safetensors", &["absent.safetensors"]);

    let bytes = std::fs::read(f.path().join(&good)).unwrap();
    for (name, keep) in [("empty", 0), ("header", 100), ("half", bytes.len() / 2), ("last", bytes.len() - 1)] {
        let name = format!("{name}.safetensors");
        std::fs::write(f.path().join(&name), &bytes[..keep]).unwrap();
        quantize(&name, &[&name]);
    }

    let odd = checkpoint(&f, "odd", |c| {
        c.tensors.remove("layer1.0.bn1.weight").unwrap();
        c.tensors.insert("surprise".into(), HostTensor { shape: vec![2], values: vec![0.0; 2] });
        c.tensors.insert("linear.bias".into(), HostTensor { shape: vec![11], values: vec![0.0; 11] });
    });
    let all = ["missing layer1.0.bn1.weight", "unexpected surprise", "linear.bias has shape [11]", "--arch"];
    quantize(&odd, &[&[odd.as_str()], &all[..]].concat());

    let nan = checkpoint(&f, "nan", |c| c.tensors.get_mut("conv1.weight").unwrap().values[7] = f32::NAN);
    quantize(&nan, &[&nan, "conv1.weight", "NaN"]);
    let negative = checkpoint(&f, "negative", |c| {
        c.tensors.get_mut("layer2.0.bn2.running_var").unwrap().values[1] = -0.5;
    });
    quantize(&negative, &[&negative, "layer2.0.bn2.running_var[1]", "negative variance"]);
    refuses(&f, &["quantize", "--model", &good, "--arch", "cifar-resnet32", "--out", "run"], &[&good, "missing"]);

    std::fs::write(f.path().join("short.bin"), vec![1u8; 3000]).unwrap();
    std::fs::write(f.path().join("label.bin"), vec![200u8; 3073]).unwrap();
    for (name, word) in [("short.bin", "3073"), ("label.bin", "label 200"), ("absent.bin", "absent.bin")] {
        let set = format!("cifar10:{name}");
        refuses(&f, &["eval", "--model", &good, "--eval", &set], &[name, word]);
        refuses(&f, &["quantize", "--model", &good, "--eval", &set, "--out", "run"], &[name, word]);
    }
    refuses(&f, &["quantize", "--resume", "nowhere"], &["nowhere"]);
    // A path under a regular file cannot become a folder.
    let out = "test.bin/run";
    refuses(&f, &["quantize", "--model", &good, "--eval", &set, "--out", out], &[out, "--out"]);
    assert_eq!(std::fs::metadata(f.path().join("test.bin")).unwrap().len(), 3 * 3073);
}

#[test]
fn eval_and_inspect_print_json() {
    let f = tempfile::tempdir().unwrap();
    let model = checkpoint(&f, "model", |_| {});
    let set = cifar(&f, "test.bin", 7);
    let doc = json(&f, &["eval", "--model", &model, "--eval", &set, "--json"]);
    let row = &doc["results"][0];
    let correct = row["correct"].as_u64().expect("an integer");
    assert_eq!(row["total"].as_u64(), Some(7));
    assert!(correct <= 7);
    assert!((row["top1"].as_f64().unwrap() - 100.0 * correct as f64 / 7.0).abs() < 1e-9);
    assert_eq!(row["set"], Value::from(set));
    assert!(doc["quantized"].is_null());

    let doc = json(&f, &["inspect", "--model", &model, "--json"]);
    // Weights and biases of ResNet-20 with option-A shortcuts (He et al. 2016, table 6: 0.27 M).
    assert_eq!(doc["parameters"].as_u64(), Some(269_722));
    assert!(doc["nodes"].as_array().unwrap().iter().all(|n| n["name"].is_string() && n["bytes"].as_u64().is_some()));
    assert_eq!(doc["quantizers"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_short_run_writes_a_checkpoint_that_evaluates_as_reported() {
    let f = tempfile::tempdir().unwrap();
    let model = checkpoint(&f, "model", |_| {});
    let set = cifar(&f, "test.bin", 40);
    for method in ["gdfq", "best"] {
        let mut args = vec!["quantize", "--model", &model, "--eval", &set, "--method", method, "--json"];
        args.extend(["--batch", "16", "--iters", "3", "--set", "warmup=2", "--out", method, "--checkpoint-every", "2"]);
        if method == "best" {
            args.extend(["--set", "images.count=16", "--set", "images.iters=2", "--set", "ranges.batches=1"]);
            args.extend(["--set", "reconstruction.iters=2", "--mean", "0.5,0.4,0.3", "--std", "0.25"]);
        }
        let summary = json(&f, &args);
        let out = f.path().join(method);
        for file in [
            "config.toml",
            "metrics.jsonl",
            "summary.json",
            "quantized.safetensors",
            "integer.safetensors",
            "samples.png",
        ] {
            assert!(out.join(file).is_file(), "{method}: no {file}");
        }
        let written: Value = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
        assert_eq!(written["selected_top1"], summary["selected_top1"]);
        let quantized = format!("{method}/quantized.safetensors");
        let doc = json(&f, &["eval", "--model", &quantized, "--eval", &set, "--json"]);
        assert_eq!(doc["results"][0]["top1"], summary["selected_top1"][&set], "{method}");
        assert_eq!(doc["quantized"]["wbits"], Value::from(4));
        let remembered =
            Checkpoint::load(out.join("quantized.safetensors")).unwrap().metadata["ghostbit.normalization"].clone();
        assert_eq!(remembered.contains("[0.5,0.4,0.3]"), method == "best", "{remembered}");
        let doc = json(&f, &["inspect", "--model", &quantized, "--json"]);
        let images = usize::from(method == "best");
        assert_eq!(doc["quantizers"].as_array().map(Vec::len), Some(20 + 19 + images));
        deploys(&f, method, &set, &summary);
        goes_on(&f, method);
        refuses(&f, &["quantize", "--model", &quantized, "--out", "again"], &["already quantized"]);
    }
}

/// From a checkpoint at the very end of warm-up, with everything that was logged behind it: each line is there once.
fn goes_on(f: &TempDir, run: &str) {
    let log = || std::fs::read_to_string(f.path().join(run).join("metrics.jsonl")).unwrap();
    let before = log();
    assert_eq!(before.matches("\"calibrated\"").count(), 1);
    json(f, &["quantize", "--resume", run, "--json"]);
    assert!(log() == before, "{run}: {before} became {}", log());
}

/// The integer network of a run: evaluates as the student does, and is what `export` makes of the student.
fn deploys(f: &TempDir, run: &str, set: &str, summary: &Value) {
    let [integer, student] = ["integer", "quantized"].map(|n| format!("{run}/{n}.safetensors"));
    let doc = json(f, &["eval", "--integer", &integer, "--eval", set, "--json"]);
    assert_eq!(doc["results"][0]["top1"], summary["selected_top1"][set]);
    assert_eq!(doc["weight_bytes"]["float"].as_u64(), Some(4 * 268_336));
    assert!(doc["weight_bytes"]["packed"].as_u64().unwrap() * 7 < 4 * 268_336);
    assert_eq!(doc["file_bytes"], summary["files"]["integer.safetensors"]);
    assert_eq!(doc["speed"][0]["batch"].as_u64(), Some(1));

    let read = |name: &str| std::fs::read(f.path().join(name)).unwrap();
    let (ok, stdout, stderr) = ghostbit(f, &["export", "--model", &student, "--out", "exported.safetensors"]);
    assert!(ok && stdout.contains("exported.safetensors"), "{stdout}{stderr}");
    assert_eq!(read("exported.safetensors"), read(&integer));
    let (ok, _, stderr) =
        ghostbit(f, &["export", "--format", "float", "--model", &student, "--out", "float.safetensors"]);
    assert!(ok, "{stderr}");
    let doc = json(f, &["eval", "--model", "float.safetensors", "--eval", set, "--json"]);
    assert!(doc["quantized"].is_null());

    let image = format!("{run}/samples.png");
    let doc = json(f, &["predict", &integer, &image, &image, "--top", "2", "--json"]);
    assert_eq!(doc["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(doc["results"][0]["classes"].as_array().map(Vec::len), Some(2));
    refuses(f, &["predict", &integer, &student], &[&student, "image"]);
    refuses(f, &["predict", &student, &image], &[&student, "not an integer network"]);
    refuses(f, &["eval", "--integer", &student, "--eval", set], &[&student, "not an integer network"]);
    refuses(f, &["export", "--model", "float.safetensors", "--out", "no"], &["float.safetensors", "not quantized"]);
    for name in ["exported.safetensors", "float.safetensors"] {
        std::fs::remove_file(f.path().join(name)).unwrap();
    }
}

/// Writes `n` images of 8x8 (three channels) of ten classes as idx files and returns the test set's specification.
fn small_images(f: &TempDir, n: u32) -> String {
    let file = |name: &str, dims: &[u32], value: &dyn Fn(u32) -> u8| {
        let mut bytes = vec![0, 0, 8, dims.len() as u8];
        dims.iter().for_each(|d| bytes.extend(d.to_be_bytes()));
        bytes.extend((0..dims.iter().product()).map(value));
        std::fs::write(f.path().join(name), bytes).unwrap();
    };
    file("images.idx", &[n, 8, 8, 3], &|i| ((i * 31 + i * i / 13) % 256) as u8);
    file("labels.idx", &[n], &|i| (i % 10) as u8);
    "idx:images.idx,labels.idx".into()
}

/// Everything that takes a checkpoint takes an ONNX file; its students load with it as architecture.
#[test]
fn onnx_files_are_networks() {
    let f = tempfile::tempdir().unwrap();
    std::fs::write(f.path().join("net.onnx"), onnx_models::residual(3).bytes()).unwrap();
    let (set, cifar) = (small_images(&f, 40), cifar(&f, "cifar.bin", 3));
    let doc = json(&f, &["inspect", "--model", "net.onnx", "--json"]);
    assert_eq!((&doc["network"], &doc["nodes"][1]["name"]), (&Value::from("net"), &Value::from("stem")));
    let doc = json(&f, &["eval", "--model", "net.onnx", "--eval", &set, "--json"]);
    let float = doc["results"][0]["top1"].clone();

    let mut args = vec!["quantize", "--model", "net.onnx", "--eval", &set, "--json", "--out", "run"];
    args.extend(["--batch", "8", "--iters", "4", "--set", "warmup=2", "--set", "images.count=16"]);
    args.extend(["--set", "images.iters=2", "--set", "ranges.batches=1", "--set", "reconstruction.iters=2"]);
    let summary = json(&f, &args);
    assert_eq!(summary["fp_top1"][&set], float);
    let student = ["--arch", "net.onnx", "--model", "run/quantized.safetensors"];
    let doc = json(&f, &[&["eval", "--eval", &set, "--json"], &student[..]].concat());
    assert_eq!(doc["results"][0]["top1"], summary["selected_top1"][&set]);
    let integer = ["eval", "--integer", "run/integer.safetensors", "--eval", &set, "--json"];
    let doc = json(&f, &[&integer[..], &student].concat());
    assert_eq!(doc["results"][0]["top1"], summary["selected_top1"][&set]);
    assert_eq!(doc["speed"].as_array().map(Vec::len), Some(2));
    // Without the float network there is nothing to be compared with.
    assert_eq!(json(&f, &integer)["speed"].as_array().map(Vec::len), Some(0));
    let (ok, _, stderr) =
        ghostbit(&f, &[&["export", "--format", "onnx-qdq", "--out", "qdq.onnx"], &student[..]].concat());
    assert!(ok, "{stderr}");
    let mut train = vec!["train", "--init", "net.onnx", "--data", &set, "--eval", &set, "--out", "trained.safetensors"];
    train.extend(["--epochs", "1", "--batch", "8", "--lr", "1e-3"]);
    let (ok, _, stderr) = ghostbit(&f, &train);
    assert!(ok, "{stderr}");
    let trained = ["--arch", "net.onnx", "--model", "trained.safetensors"];
    json(&f, &[&["eval", "--eval", &set, "--json"], &trained[..]].concat());

    refuses(&f, &["inspect", "--model", "qdq.onnx"], &["qdq.onnx", "quantized already"]);
    refuses(&f, &["inspect", "--model", "net.onnx", "--classes", "7"], &["--classes", "10 logits"]);
    refuses(&f, &["inspect", "--model", "net.onnx", "--arch", "cifar-resnet20"], &["--arch", "own graph"]);
    refuses(&f, &["eval", "--model", "net.onnx", "--eval", &cifar], &["32x32x3", "8x8x3", "10 classes"]);
    refuses(&f, &["eval", "--model", "net.onnx"], &["--eval", "at least one"]);
    refuses(&f, &["quantize", "--resume", "run", "--model", "net.onnx"], &["--resume"]);
    let other = onnx_models::flattened().bytes();
    std::fs::write(f.path().join("other.onnx"), &other).unwrap();
    let wrong = ["inspect", "--arch", "other.onnx", "--model", "run/quantized.safetensors"];
    refuses(&f, &wrong, &["quantized.safetensors", "missing", "--arch"]);
    std::fs::write(f.path().join("half.onnx"), &other[..other.len() / 2]).unwrap();
    refuses(&f, &["inspect", "--model", "half.onnx"], &["half.onnx", "cut off"]);
    refuses(&f, &["quantize", "--model", "absent.onnx", "--out", "again"], &["absent.onnx"]);
}

/// The generators make images of multiples of four; images from noise have any size.
#[test]
fn images_of_odd_sizes_need_no_generator() {
    let f = tempfile::tempdir().unwrap();
    let mut model = onnx_models::residual(1);
    model.graph.input[0] = onnx_models::value("x", &[0, 1, 9, 10]);
    std::fs::write(f.path().join("odd.onnx"), model.bytes()).unwrap();
    let quantize = ["quantize", "--model", "odd.onnx", "--json", "--out"];
    let short =
        ["--batch", "8", "--set", "images.count=16", "--set", "images.iters=2", "--set", "reconstruction.iters=2"];
    let named = [&quantize[..], &["run", "--method", "best"]].concat();
    refuses(&f, &named, &["generator", "multiples of 4", "9x10", "--method genie"]);
    for method in [&["--method", "genie"][..], &["--iters", "3"]] {
        let name = method[1];
        let summary = json(&f, &[&quantize[..], &[name], &short, method].concat());
        assert!(summary["files"]["integer.safetensors"].as_u64().is_some());
        let said = summary["adapted"].as_array().unwrap();
        assert_eq!(said.len(), usize::from(name == "3"), "{said:?}");
        let config = std::fs::read_to_string(f.path().join(name).join("config.toml")).unwrap();
        assert!(config.contains("from_generator = false"), "{config}");
        json(&f, &["quantize", "--resume", name, "--json"]);
    }
}

/// A folder's images, or those of a set, in place of synthetic ones.
#[test]
fn images_of_the_user_are_quantized_with() {
    let f = tempfile::tempdir().unwrap();
    std::fs::write(f.path().join("net.onnx"), onnx_models::residual(3).bytes()).unwrap();
    std::fs::create_dir_all(f.path().join("images/more")).unwrap();
    for i in 0..20u32 {
        // Of other sizes than the network takes, wide and tall.
        let (w, h) = (5 + i % 7, 12 - i % 9);
        let image = image::RgbImage::from_fn(w, h, |x, y| image::Rgb([x * 20, y * 20, i * 10].map(|v| v as u8)));
        let name = format!("images/{}{i}.{}", if i % 2 == 0 { "more/" } else { "" }, ["png", "jpg"][i as usize % 2]);
        image.save(f.path().join(name)).unwrap();
    }
    let set = small_images(&f, 40);
    let quantize = ["quantize", "--model", "net.onnx", "--json", "--batch", "4"];
    let short = ["--iters", "3", "--set", "ranges.batches=1", "--set", "reconstruction.iters=2"];
    for images in ["images", &set] {
        for method in ["best", "gdfq"] {
            let short = if method == "best" { &short[..] } else { &short[..2] };
            let run = format!("{}-{method}", &images[..3]);
            let args = [&quantize[..], short, &["--images", images, "--method", method, "--out", &run]].concat();
            let summary = json(&f, &args);
            assert_eq!((&summary["images"], &summary["recipe"]["images"]["given"]), (&images.into(), &true.into()));
            assert_eq!(summary["synthetic"]["stored"]["label_agreement"], 1.0);
            let config = std::fs::read_to_string(f.path().join(&run).join("config.toml")).unwrap();
            assert!(config.contains("warmup = 0") && config.contains("iters = 3"), "{config}");
        }
    }
    let spec = ["sweep", "--model", "net.onnx", "--json", "--out", "swept", "--images", "images", "--set", "batch=4"];
    let spec =
        [&spec[..], &["--set", "iters=3", "--set", "ranges.batches=1", "--set", "reconstruction.iters=2"]].concat();
    json(&f, &spec);
    let read = |run: &str| std::fs::read(f.path().join(run).join("quantized.safetensors")).unwrap();
    assert_eq!(read("swept/net-best-w4a4-s1"), read("ima-best"), "a sweep's run is another");

    std::fs::write(f.path().join("images/spoiled.png"), [0u8; 40]).unwrap();
    let given = |images: &str, words: &[&str]| {
        refuses(&f, &[&quantize[..], &short, &["--images", images, "--out", "no"]].concat(), words);
    };
    given("images", &["spoiled.png"]);
    given("absent", &["--images", "absent"]);
    given(&cifar(&f, "cifar.bin", 3), &["--images", "32x32x3", "8x8x3"]);
    refuses(&f, &["quantize", "--resume", "ima-best", "--images", "images"], &["--resume"]);
}

/// Float logits of test sets and of arrays, channels first or last.
#[test]
fn eval_writes_float_logits() {
    let f = tempfile::tempdir().unwrap();
    std::fs::write(f.path().join("net.onnx"), onnx_models::residual(3).bytes()).unwrap();
    let values: Vec<f32> = (0..2 * 3 * 64).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let npy = |name: &str, shape: &str, values: &[f32]| {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut file = b"\x93NUMPY\x01\x00".to_vec();
        file.extend((header.len() as u16).to_le_bytes());
        file.extend(header.bytes());
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        std::fs::write(f.path().join(name), file).unwrap();
    };
    npy("first.npy", "(2, 3, 8, 8)", &values);
    let last: Vec<f32> = (0..values.len()).map(|i| values[i / 192 * 192 + i % 3 * 64 + i / 3 % 64]).collect();
    npy("last.npy", "(2, 8, 8, 3)", &last);
    npy("wrong.npy", "(2, 8, 3, 8)", &values);
    let set = small_images(&f, 12);
    let eval = ["eval", "--model", "net.onnx", "--logits"];
    let logits = |name: &str, key: &str, args: &[&str]| {
        let (ok, _, stderr) = ghostbit(&f, &[&eval[..], &[name], args].concat());
        assert!(ok, "{stderr}");
        Checkpoint::load(f.path().join(name)).unwrap().tensors.remove(key).unwrap()
    };
    let first = logits("a", "inputs", &["--inputs", "first.npy"]);
    assert_eq!(first.shape, [2, 10]);
    assert_eq!(first.values, logits("b", "inputs", &["--inputs", "last.npy"]).values);
    let of_set = logits("c", &set, &["--eval", &set, "--inputs", "first.npy"]);
    let doc = json(&f, &["eval", "--model", "net.onnx", "--eval", &set, "--json"]);
    let best = |row: &[f32]| (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let hits = of_set.values.chunks(10).enumerate().filter(|(i, row)| best(row) == i % 10).count();
    assert_eq!(doc["results"][0]["correct"].as_u64(), Some(hits as u64));
    refuses(&f, &[&eval[..], &["no", "--inputs", "wrong.npy"]].concat(), &["wrong.npy", "[2, 8, 3, 8]"]);
    refuses(&f, &[&eval[..], &["no", "--inputs", "net.onnx"]].concat(), &["net.onnx", ".npy"]);
    refuses(&f, &["eval", "--model", "net.onnx", "--inputs", "first.npy"], &["--logits"]);
}
