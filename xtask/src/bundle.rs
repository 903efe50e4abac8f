//! A tarball for a GPU host that has the driver but no Rust and no toolkit.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const RUN: &str = include_str!("run.sh");

pub fn make(file: &Path) -> Result<(), String> {
    if !nvcc_found() {
        return Err("a GPU bundle needs nvcc: set CUDA_HOME (or .ci/install-nvcc DIR)".into());
    }
    let stage = crate::target_dir().join("gpu-bundle");
    let _ = fs::remove_dir_all(&stage);
    let folder = stage.join("ghostbit");
    let io = |e: std::io::Error| format!("{}: {e}", folder.display());
    // Without the emulator: its libraries are not needed there, and the tests then want a GPU.
    for (name, kind) in [("bin", ["--bins"].as_slice()), ("tests", &["--lib", "--tests"]), ("benches", &["--benches"])]
    {
        let to = folder.join(name);
        fs::create_dir_all(&to).map_err(io)?;
        for binary in build(name, kind)? {
            fs::copy(&binary, to.join(plain_name(&binary))).map_err(|e| format!("{}: {e}", binary.display()))?;
        }
    }
    for data in ["recipes", "assets"] {
        let from = crate::root().join(data);
        if from.exists() {
            run(Command::new("cp").arg("-r").arg(from).arg(&folder))?;
        }
    }
    let script = folder.join("run.sh");
    fs::write(&script, RUN).map_err(io)?;
    run(Command::new("chmod").arg("+x").arg(&script))?;
    run(Command::new("tar").arg("-czf").arg(file).arg("-C").arg(&stage).arg("ghostbit"))?;
    println!("{}", file.display());
    Ok(())
}

/// Builds one kind of target in release mode and returns the programs.
fn build(name: &str, kind: &[&str]) -> Result<Vec<PathBuf>, String> {
    let cargo = env::var("CARGO").unwrap_or("cargo".into());
    let verb: &[&str] = match name {
        "tests" => &["test", "--no-run"],
        "benches" => &["bench", "--no-run"],
        _ => &["build", "--release"],
    };
    let release: &[&str] = if name == "tests" { &["--release"] } else { &[] };
    let mut command = Command::new(cargo);
    command.args(verb).args(release).args(kind).args(["--package", "ghostbit", "--no-default-features"]);
    command.args(["--message-format", "json-render-diagnostics"]).current_dir(crate::root()).stderr(Stdio::inherit());
    let done = command.output().map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("cargo failed to build the {name}"));
    }
    let lines = String::from_utf8_lossy(&done.stdout).into_owned();
    // Each artifact is one line of JSON; programs have `"executable":"<path>"`.
    let path = |line: &str| line.split("\"executable\":\"").nth(1)?.split('"').next().map(PathBuf::from);
    Ok(lines.lines().filter_map(path).collect())
}

/// `ops-018541450246da8b` -> `ops`
fn plain_name(path: &Path) -> String {
    let stem = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => name.into(),
        _ => stem,
    }
}

fn nvcc_found() -> bool {
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    env::var_os("NVCC").is_some()
        || homes.into_iter().any(|h| Path::new(&h).join("bin/nvcc").exists())
        || Command::new("nvcc").arg("--version").output().is_ok_and(|o| o.status.success())
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("{command:?}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
