//! Finds the kernels of a `.cu` file.

use super::compile;
use std::path::Path;
use std::{env, fs};

#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    pub name: String,
    /// The arguments of `__launch_bounds__`, or nothing.
    pub bounds: String,
}

/// The `extern "C" __global__` functions of a file, in order. With a preprocessor those made by macros are found too;
/// without one (no emulator, no nvcc: nothing could run them) the plain text has to do.
pub fn kernels(path: &Path, out: &Path, preprocessor: Option<&Path>) -> Result<Vec<Kernel>, String> {
    let fail = |e: std::io::Error| format!("{}: {e}", path.display());
    let Some(cxx) = preprocessor else { return Ok(parse(&fs::read_to_string(path).map_err(fail)?)) };
    let folder = out.join("scan");
    fs::create_dir_all(&folder).map_err(fail)?;
    let output = folder.join(path.file_name().unwrap());
    let root = env::var("CARGO_MANIFEST_DIR").unwrap();
    // System headers hold no kernels: -nostdinc would fail on them, and they cost little.
    let args =
        ["-x", "c++", "-std=c++17", "-E", "-P", "-DSIMT_SCAN", "-MD", "-MF"].map(String::from).into_iter().chain([
            compile::suffixed(&output, ".d").display().to_string(),
            "-MT".into(),
            "x".into(),
            format!("-I{root}/kernels"),
            path.display().to_string(),
            "-o".into(),
            output.display().to_string(),
        ]);
    compile::up_to_date_or_run(cxx, &args.collect::<Vec<_>>(), &output, None)?;
    Ok(parse(&fs::read_to_string(&output).map_err(fail)?))
}

fn parse(text: &str) -> Vec<Kernel> {
    let text = strip_comments(text).replace("#define KERNEL", "");
    let mut found = vec![];
    let mut rest = text.as_str();
    while let Some((at, word)) = next_marker(rest) {
        rest = &rest[at + word.len()..];
        found.extend(declaration(rest));
    }
    found
}

fn next_marker(text: &str) -> Option<(usize, &'static str)> {
    ["__global__", "KERNEL "].into_iter().filter_map(|w| text.find(w).map(|at| (at, w))).min()
}

/// The name is the identifier before the first `(` that is not the launch bounds'. Templates have no C name.
fn declaration(text: &str) -> Option<Kernel> {
    let mut bounds = String::new();
    let mut rest = text;
    loop {
        let open = rest.find('(')?;
        let name = rest[..open].trim_end().rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next()?;
        if name != "__launch_bounds__" {
            return (!name.is_empty()).then(|| Kernel { name: name.into(), bounds });
        }
        let close = open + matching(&rest[open..])?;
        bounds = rest[open + 1..close].trim().to_string();
        rest = &rest[close + 1..];
    }
}

/// Where the parenthesis that `text` starts with closes.
fn matching(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(i),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn strip_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        out += &rest[..at];
        let (end, skip) = if rest[at..].starts_with("//") { ("\n", 0) } else { ("*/", 2) };
        rest = rest[at..].find(end).map_or("", |n| &rest[at + n + skip..]);
    }
    out + rest
}
