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
    // Without the emulator: its libraries are not needed there, and the tests then want a GPU. The test of the source
    // tree stays at home.
    for (name, kind) in [("bin", ["--bins"].as_slice()), ("tests", &["--lib", "--tests"]), ("benches", &["--benches"])]
    {
        let to = folder.join(name);
        fs::create_dir_all(&to).map_err(io)?;
        let programs = build(name, kind)?;
        if programs.is_empty() {
            return Err(format!("cargo built no {name}"));
        }
        for (program, path) in programs.iter().filter(|(program, _)| program != "layout") {
            fs::copy(path, to.join(program)).map_err(|e| format!("{}: {e}", path.display()))?;
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

/// Builds one kind of target in release mode and returns the programs: name in the bundle, path.
fn build(name: &str, kind: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let cargo = env::var("CARGO").unwrap_or("cargo".into());
    let verb: &[&str] = match name {
        "tests" => &["test", "--release", "--no-run"],
        "benches" => &["bench", "--no-run"],
        _ => &["build", "--release"],
    };
    let mut command = Command::new(cargo);
    command.args(verb).args(kind).args(["--package", "ghostbit", "--no-default-features"]);
    command.args(["--message-format", "json-render-diagnostics"]).current_dir(crate::root()).stderr(Stdio::inherit());
    let done = command.output().map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("cargo failed to build the {name}"));
    }
    let lines = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok(lines.lines().filter_map(|line| program(line, name)).collect())
}

/// The program in one line of cargo's JSON, if it is one of those asked for. With the tests and benches of a package cargo
/// also builds its `[[bin]]`, as itself and as a (here empty) test.
fn program(line: &str, wanted: &str) -> Option<(String, PathBuf)> {
    let text = |key: &str| line.split(&format!("\"{key}\":\"")).nth(1)?.split('"').next();
    let path = PathBuf::from(text("executable")?);
    let kind = line.split("\"kind\":[\"").nth(1)?.split('"').next()?;
    // `ops-018541450246da8b` -> `ops`; the library's own tests are named after the crate, as the program is.
    let stem = path.file_name()?.to_string_lossy().into_owned();
    let name = match (wanted, kind) {
        ("bin", "bin") => stem,
        ("tests", "lib") => "lib".into(),
        ("tests", "test") | ("benches", "bench") => stem.rsplit_once('-')?.0.into(),
        _ => return None,
    };
    Some((name, path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for() {
        let line = |kind: &str, file: &str| {
            format!(r#"{{"target":{{"kind":["{kind}"],"name":"x"}},"executable":"/t/deps/{file}","fresh":true}}"#)
        };
        let name = |wanted, kind, file| program(&line(kind, file), wanted).map(|(name, _)| name);
        assert_eq!(name("tests", "test", "ops-018541450246da8b").as_deref(), Some("ops"));
        assert_eq!(name("tests", "lib", "ghostbit-68ec9a7a453e6421").as_deref(), Some("lib"));
        assert_eq!(name("tests", "bin", "ghostbit-15bfd3b313872244"), None);
        assert_eq!(name("benches", "bin", "ghostbit"), None);
        assert_eq!(name("benches", "bench", "step-2b2be6287c70a683").as_deref(), Some("step"));
        assert_eq!(name("bin", "bin", "ghostbit").as_deref(), Some("ghostbit"));
        assert_eq!(program(r#"{"target":{"kind":["lib"]},"executable":null}"#, "tests"), None);
    }
}
