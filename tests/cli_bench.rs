//! `ghostbit bench`: its reports as JSON, beside earlier ones, and what it refuses.

use assert_cmd::Command;
use serde_json::Value;
use std::path::Path;

/// Exit, standard output and error of the program in `folder`, on one CPU thread.
fn bench(folder: &Path, args: &[&str]) -> (bool, String, String) {
    let mut command = Command::cargo_bin("ghostbit").unwrap();
    command.args(["bench", "--threads", "1"]);
    if !args.contains(&"--device") {
        command.args(["--device", "cpu"]);
    }
    let out = command.current_dir(folder).args(args).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

fn json(folder: &Path, args: &[&str]) -> Value {
    let (ok, stdout, stderr) = bench(folder, args);
    assert!(ok, "{args:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
}

fn refuses(folder: &Path, args: &[&str], words: &[&str]) {
    let (ok, _, stderr) = bench(folder, args);
    assert!(!ok && !stderr.contains("panicked"), "{args:?}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args:?}: no '{word}' in: {stderr}");
    }
}

const LINEAR: [&str; 6] = ["kernels", "--filter", "n64_c64_k10", "--iters", "3", "--json"];

#[test]
fn kernels_are_timed_beside_what_the_device_can_do() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let doc = json(f, &LINEAR);
    let rows = doc["rows"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["linear/forward/n64_c64_k10", "linear/forward_backward/n64_c64_k10"]);
    let number = |r: &Value, key: &str| r[key].as_f64().unwrap_or_else(|| panic!("no {key} in {r}"));
    for (row, passes) in rows.iter().zip([1.0, 3.0]) {
        assert_eq!(number(row, "flops"), passes * 2.0 * (64 * 64 * 10) as f64);
        let (s, p10, p90) = (number(row, "seconds"), number(row, "p10"), number(row, "p90"));
        assert!(0.0 < p10 && p10 <= s && s <= p90, "{row}");
        assert!((number(row, "flops_per_second") * s / number(row, "flops") - 1.0).abs() < 1e-6);
        assert!((number(row, "bytes_per_second") * s / number(row, "bytes") - 1.0).abs() < 1e-6);
        assert!(number(row, "roof_share") > 0.0);
    }
    // Inputs and outputs; then also the gradient of the output and those of the three inputs.
    let forward = 4 * (64 * 64 + 64 * 10 + 64 * 10);
    assert_eq!(number(&rows[0], "bytes"), f64::from(forward));
    assert_eq!(number(&rows[1], "bytes"), f64::from(forward + 4 * (64 * 10 + 64 * 64 + 64 * 10 + 10)));
    assert_eq!(doc["roof"]["copies"].as_array().map(Vec::len), Some(5));
    assert!(number(&doc["roof"], "flops_per_second") > 1e8);

    refuses(f, &["kernels", "--filter", "no such kernel"], &["--filter", "no such kernel"]);
    refuses(f, &["step", "--filter", "conv"], &["--filter", "bench kernels"]);
    #[cfg(feature = "emulator")]
    refuses(f, &["kernels", "--device", "emulator"], &["--device", "emulator", "say nothing"]);
}

#[test]
fn reports_are_compared_with_earlier_ones_of_the_same_kind_and_device() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let (ok, first, stderr) = bench(f, &LINEAR);
    assert!(ok, "{stderr}");
    std::fs::write(f.join("kernels.json"), &first).unwrap();
    let doc = json(f, &[&LINEAR[..], &["--compare", "kernels.json"]].concat());
    let then: Value = serde_json::from_str(&first).unwrap();
    for (i, row) in doc["compared"]["rows"].as_array().unwrap().iter().enumerate() {
        assert_eq!(row["then"], then["rows"][i]["seconds"]);
        assert_eq!(row["now"], doc["rows"][i]["seconds"]);
        let ratio = row["then"].as_f64().unwrap() / row["now"].as_f64().unwrap();
        assert!((row["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
    }
    let (ok, stdout, stderr) = bench(f, &[&LINEAR[..5], &["--compare", "kernels.json"]].concat());
    assert!(ok && stdout.contains("then / now") && stdout.contains("% of roof"), "{stdout}{stderr}");

    let step = ["step", "--batch", "2", "--iters", "1", "--json"];
    std::fs::write(f.join("step.json"), json(f, &step).to_string()).unwrap();
    let doc = json(f, &[&step[..], &["--compare", "step.json"]].concat());
    let names: Vec<&Value> = doc["compared"]["rows"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["generator", "student", "step"]);
    let integer = ["integer", "--batch", "2", "--iters", "1", "--json"];
    std::fs::write(f.join("integer.json"), json(f, &integer).to_string()).unwrap();
    let doc = json(f, &[&integer[..], &["--compare", "integer.json"]].concat());
    assert_eq!(doc["compared"]["rows"].as_array().map(Vec::len), Some(4));

    refuses(f, &["kernels", "--compare", "step.json"], &["step.json", "bench step", "bench kernels"]);
    refuses(f, &["step", "--batch", "3", "--iters", "1", "--compare", "step.json"], &["step.json", "batch was 2"]);
    refuses(f, &["kernels", "--compare", "absent.json"], &["absent.json", "cannot be read"]);
    let other = first.replace("1 threads", "64 threads");
    for (name, text, word) in
        [("half", &first[..50], "no report"), ("list", "[1]", "no report"), ("other", &other, "device was")]
    {
        std::fs::write(f.join(name), text).unwrap();
        refuses(f, &["kernels", "--compare", name], &[name, word]);
    }
}
