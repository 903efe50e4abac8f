//! The house rules of docs/architecture.md that a machine can check.

use std::path::{Path, PathBuf};

/// Modules of `src/`, bottom floor first. A module uses lower floors and itself; those on one floor do not know each
/// other.
const FLOORS: [&[&str]; 15] = [
    &["error"],
    &["device"],
    &["tensor"],
    &["autograd"],
    &["quant"],
    &["ops"],
    &["optim"],
    &["graph"],
    &["models", "data"],
    &["methods"],
    &["deploy"],
    &["report"],
    &["train"],
    &["cli"],
    &["main", "lib"],
];

/// Where `unsafe` may stand: the seam, the one place that makes slices of addresses, SIMD micro-kernels.
const UNSAFE: [&str; 4] =
    ["src/device/", "src/tensor/storage.rs", "src/ops/conv2d/cpu_kernel", "src/ops/conv2d_int/cpu_kernel"];

/// Ops that launch no kernel of their own: they change a shape, or what they launch lies in another op's file.
const NO_KERNEL_FILE: [(&str, &str); 2] = [("reshape", "no data moves"), ("accuracy", "kernels/loss.cu")];

/// Names that say nothing.
const NAMES: [&str; 6] = ["utils", "common", "misc", "helpers", "fast", "v2"];

const MAX_LINES: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` with one of the extensions, as (path relative to the root, text), sorted.
fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if path.is_dir() && !hidden && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
                found.push(path);
            }
        }
    }
    found.sort();
    let name = |p: &PathBuf| p.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
    found.iter().map(|p| (name(p), std::fs::read_to_string(p).unwrap())).collect()
}

/// The code of a line: without its comment. (A `//` in a string cuts code off, which only hides what follows it.)
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// The modules of the crate that a line names: `crate::a::..`, `crate::{a, b::c}`.
fn imports(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for rest in code(line).split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.extend(words(rest).next()),
            // One level of braces: inner groups hang below a name that was already taken.
            Some(group) => {
                let mut depth = 0;
                let mut start = 0;
                for (i, c) in group.char_indices().chain([(group.len(), ',')]) {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 || i == group.len() => {
                            found.extend(words(group[start..i].trim()).next());
                            start = i + 1;
                        }
                        _ => {}
                    }
                    if depth < 0 {
                        found.extend(words(group[start..i].trim()).next());
                        break;
                    }
                }
            }
        }
    }
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|f| f.contains(&module))
}

fn report(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_import_reader_reads() {
    assert_eq!(imports("use crate::tensor::{DType, Tensor};"), ["tensor"]);
    assert_eq!(imports("use crate::{Error, ops::{a, b}, cli};"), ["Error", "ops", "cli"]);
    assert_eq!(imports("let x = crate::graph::f(crate::data::G); // crate::cli"), ["graph", "data"]);
}

#[test]
fn imports_go_down() {
    let mut faults = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let module = path["src/".len()..].split(['/', '.']).next().unwrap();
        let Some(own) = floor(module) else {
            faults.push(format!("{path}: module {module} has no floor; add it to FLOORS and docs/architecture.md"));
            continue;
        };
        for (i, line) in text.lines().enumerate() {
            for used in imports(line) {
                if let Some(other) = floor(used) {
                    if other > own || (other == own && used != module) {
                        faults.push(format!("{path}:{}: {module} must not use {used}", i + 1));
                    }
                }
            }
        }
    }
    report(faults);
}

#[test]
fn unsafe_and_the_driver_stay_in_their_rooms() {
    let mut faults = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        for (i, line) in text.lines().enumerate() {
            if words(code(line)).any(|w| w == "unsafe") && !UNSAFE.iter().any(|room| path.starts_with(room)) {
                faults.push(format!("{path}:{}: unsafe outside {UNSAFE:?}", i + 1));
            }
            if code(line).contains("cudarc::")
                && !path.starts_with("src/device/gpu.rs")
                && !path.starts_with("src/device/gpu/")
            {
                faults.push(format!("{path}:{}: only src/device/gpu.rs and its folder name cudarc", i + 1));
            }
        }
    }
    report(faults);
}

#[test]
fn files_are_short_and_named() {
    let mut faults = Vec::new();
    for folder in ["src", "tests", "benches", "build", "xtask", "kernels", "fuzz"] {
        for (path, text) in files(folder, &["rs", "cu", "cuh", "cpp", "h"]) {
            let lines = text.lines().count();
            if lines > MAX_LINES {
                faults.push(format!("{path}: {lines} lines; split it below {MAX_LINES}"));
            }
            if path.split(['/', '.']).any(|part| part.split('_').any(|word| NAMES.contains(&word))) {
                faults.push(format!("{path}: name it by what is in it"));
            }
        }
    }
    report(faults);
}

#[test]
fn every_op_has_its_kernels() {
    let kernels: Vec<String> = files("kernels", &["cu"]).into_iter().map(|(path, _)| path).collect();
    let mut faults = Vec::new();
    for (op, cases) in ghostbit::ops::registry() {
        let own = |k: &String| {
            let stem = k.strip_prefix("kernels/").and_then(|k| k.strip_suffix(".cu"));
            stem.and_then(|s| s.strip_prefix(op)).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        if !kernels.iter().any(own) && !NO_KERNEL_FILE.iter().any(|(name, _)| *name == op) {
            faults.push(format!("{op}: no kernels/{op}*.cu; write it, or say in NO_KERNEL_FILE why there is none"));
        }
        if cases.is_empty() {
            faults.push(format!("{op}: no cases"));
        }
    }
    report(faults);
}

/// Kinds that a file outside `src/graph/nodes` may tell apart. A file that lists more of them is another list of all ops.
const KINDS_TOLD_APART: usize = 8;

/// Files of `src/graph/nodes` that hold no node kind.
const NO_KIND: [&str; 2] = ["mod", "extent"];

#[test]
fn a_node_kind_is_one_file() {
    let list = std::fs::read_to_string(root().join("src/graph/nodes/mod.rs")).unwrap();
    let list = list.split("nodes! {").nth(1).and_then(|s| s.split('}').next()).expect("the list of kinds");
    let kinds: Vec<(&str, &str)> =
        list.lines().filter_map(|l| l.trim().trim_end_matches(',').split_once(": ")).collect();
    assert!(kinds.len() > 15, "{kinds:?}");
    let mut faults = Vec::new();
    for (path, text) in files("src/graph/nodes", &["rs"]) {
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap().to_string();
        match kinds.iter().find(|(module, _)| *module == stem) {
            _ if NO_KIND.contains(&&stem[..]) => {}
            None => faults.push(format!("{path}: not in the list of src/graph/nodes/mod.rs")),
            Some((_, kind)) if !text.contains(&format!("impl Kind for {kind} {{")) => {
                faults.push(format!("{path}: does not implement Kind for {kind}"));
            }
            Some(_) => {}
        }
    }
    for (path, text) in files("src", &["rs"]).iter().filter(|(path, _)| !path.starts_with("src/graph/nodes/")) {
        let named = |kind: &str| {
            let mut all = text.lines().map(code);
            all.any(|l| {
                l.split(&format!("NodeKind::{kind}")).skip(1).any(|rest| !rest.starts_with(char::is_alphanumeric))
            })
        };
        let told_apart = kinds.iter().filter(|(_, kind)| named(kind)).count();
        if told_apart > KINDS_TOLD_APART {
            faults.push(format!("{path}: tells {told_apart} node kinds apart; ask the kind's own file"));
        }
    }
    report(faults);
}
