//! Disks that are full and places that cannot be written: the program fails, says which file and what to do, and leaves
//! neither half a file nor a temporary one behind.
//!
//! A full disk is played by a limit on file sizes (`ulimit -f`, with its signal ignored, so that a write returns an error
//! as it does on a full disk) and by `/dev/full`. Neither needs root, and permissions would not stop root.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Exit status and standard error of `ghostbit ARGS` in `folder` on the CPU, run by `sh` after `before`.
fn ghostbit(folder: &TempDir, before: &str, args: &str) -> (Option<i32>, String) {
    let program = std::env::var_os("CARGO_BIN_EXE_ghostbit").unwrap_or(env!("CARGO_BIN_EXE_ghostbit").into());
    let script = format!("{before} exec \"$0\" --device cpu {args}");
    let out = Command::new("sh").arg("-c").arg(script).arg(program).current_dir(folder.path()).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// No file may grow beyond this many blocks of 512 bytes.
fn limit(blocks: usize) -> String {
    format!("trap '' XFSZ; ulimit -f {blocks};")
}

/// Expects status 1 (no signal, no panic) and all of `words`.
#[track_caller]
fn fails(folder: &TempDir, before: &str, args: &str, words: &[&str]) {
    let (status, stderr) = ghostbit(folder, before, args);
    assert_eq!(status, Some(1), "{args}: {stderr}");
    assert!(!stderr.contains("panicked"), "{args}: {stderr}");
    for word in words {
        assert!(stderr.contains(word), "{args}: no '{word}' in: {stderr}");
    }
}

fn contents(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name(), std::fs::read(e.path()).unwrap())).collect()
}

fn names(folder: &Path) -> Vec<String> {
    contents(folder).into_keys().map(|n| n.into_string().unwrap()).collect()
}

/// A folder with a small test set, and the arguments of a short run in it.
fn short_run() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let record = |i: usize| (0..3073).map(move |j| if j == 0 { i % 10 } else { (i * 31 + j * 7) % 256 } as u8);
    std::fs::write(folder.path().join("test.bin"), (0..20).flat_map(record).collect::<Vec<u8>>()).unwrap();
    let run = "quantize --method gdfq --eval cifar10:test.bin --batch 16 --iters 3 --set warmup=2 --out run";
    (folder, run.into())
}

#[test]
fn a_full_disk_is_told_at_the_first_file() {
    let (folder, run) = short_run();
    fails(&folder, &limit(0), &run, &["run/config.toml: cannot be written", "ulimit -f", "another disk"]);
    assert!(names(&folder.path().join("run")).is_empty());
}

#[test]
fn a_disk_that_fills_up_leaves_whole_files_only() {
    let (folder, run) = short_run();
    let words = ["run/checkpoint.safetensors: cannot be written", "ulimit -f", "another disk"];
    fails(&folder, &limit(64), &format!("{run} --checkpoint-every 1"), &words);
    let run = folder.path().join("run");
    assert_eq!(names(&run), ["config.toml", "metrics.jsonl"]);
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 1, "the iteration before the checkpoint");
    assert!(metrics.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()), "{metrics}");
}

#[test]
fn earlier_results_survive_a_full_disk() {
    let (folder, run) = short_run();
    let (status, stderr) = ghostbit(&folder, "", &format!("{run} --checkpoint-every 2"));
    assert_eq!(status, Some(0), "{stderr}");
    let folder_of_run = folder.path().join("run");
    let before = contents(&folder_of_run);
    let results = ["checkpoint.safetensors", "quantized.safetensors", "samples.png", "summary.json"];
    for name in results {
        assert!(before.contains_key(OsString::from(name).as_os_str()), "the run wrote no {name}");
    }
    // From the last iteration on: what is written first is the picture of samples.
    fails(&folder, &limit(8), "quantize --resume run", &["run/samples.png: cannot be written", "another disk"]);
    fails(
        &folder,
        &limit(64),
        &format!("{run} --checkpoint-every 1"),
        &["run/checkpoint.safetensors: cannot be written"],
    );
    let after = contents(&folder_of_run);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for name in results {
        let name = OsString::from(name);
        assert!(after[&name] == before[&name], "{name:?} was changed");
    }
}

#[test]
fn a_full_disk_under_the_metrics() {
    let (folder, run) = short_run();
    std::fs::create_dir(folder.path().join("run")).unwrap();
    std::os::unix::fs::symlink("/dev/full", folder.path().join("run/metrics.jsonl")).unwrap();
    fails(&folder, "", &run, &["run/metrics.jsonl: cannot be written", "No space left", "is the disk full?"]);
}

#[test]
fn a_full_disk_under_standard_output() {
    let (folder, _) = short_run();
    fails(&folder, "exec >/dev/full;", "inspect", &["standard output cannot be written", "No space left", "elsewhere"]);
}

#[test]
fn places_that_cannot_be_written() {
    let (folder, run) = short_run();
    let at = |out: &str| run.replace("--out run", &format!("--out {out}"));
    fails(&folder, "", &at("/proc/self"), &["/proc/self/config.toml: cannot be written"]);
    fails(&folder, "", &at("/proc/ghostbit"), &["/proc/ghostbit: cannot be created", "choose another --out"]);
    // Training asks before it starts, not after hours: the data set that it would open first does not exist.
    let train = |out: &str| format!("train --data cifar10:absent.bin --out {out}");
    fails(&folder, "", &train("/proc/self/x.safetensors"), &["/proc/self/x.safetensors: cannot be written"]);
    fails(&folder, "", &train("absent/x.safetensors"), &["absent/x.safetensors", "create the directory first"]);
    fails(&folder, "", &train("test.bin/x.safetensors"), &["test.bin/x.safetensors", "create the directory first"]);
    fails(&folder, "", &train("."), &[".: cannot be written", "name a file, not a directory"]);
    assert_eq!(names(folder.path()), ["test.bin"]);
}
