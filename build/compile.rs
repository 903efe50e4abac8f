//! Runs compilers in parallel, and only for what is out of date.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs};

/// `f` of each item, on as many threads as cargo gives us. Stops at the first error.
pub fn parallel<T: Send, R: Send>(items: Vec<T>, f: impl Fn(T) -> Result<R, String> + Sync) -> Result<Vec<R>, String> {
    let jobs: usize = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let results = Mutex::new((0..count).map(|_| None).collect::<Vec<Option<R>>>());
    let error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            scope.spawn(|| {
                while error.lock().unwrap().is_none() {
                    let next = queue.lock().unwrap().next();
                    let Some((i, item)) = next else { break };
                    match f(item) {
                        Ok(r) => results.lock().unwrap()[i] = Some(r),
                        Err(e) => *error.lock().unwrap() = Some(e),
                    }
                }
            });
        }
    });
    match error.into_inner().unwrap() {
        Some(e) => Err(e),
        None => Ok(results.into_inner().unwrap().into_iter().map(|r| r.expect("every item was done")).collect()),
    }
}

pub fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).ok().as_deref() != Some(text) {
        fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Runs a compiler that makes `output` unless `output` is newer than all it depends on and was made by the same
/// command. `args` must make the compiler write its dependencies, in make syntax, to `<output>.d`. What the compiler
/// prints goes to `log`, if given.
pub fn up_to_date_or_run(program: &Path, args: &[String], output: &Path, log: Option<&Path>) -> Result<(), String> {
    let command_file = suffixed(output, ".cmd");
    let line = format!("{} {}", program.display(), args.join(" "));
    if fs::read_to_string(&command_file).ok().as_deref() == Some(&line)
        && newer_than_all(output, &dependencies(&suffixed(output, ".d")).unwrap_or_default())
    {
        return Ok(());
    }
    let _ = fs::remove_file(&command_file);
    let done = Command::new(program).args(args).output().map_err(|e| format!("{}: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    if !done.status.success() {
        return Err(format!("{line}\n{text}"));
    }
    if let Some(log) = log {
        fs::write(log, text).map_err(|e| format!("{}: {e}", log.display()))?;
    }
    fs::write(&command_file, line).map_err(|e| format!("{}: {e}", command_file.display()))
}

pub fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut s = path.as_os_str().to_owned();
    s.push(suffix);
    s.into()
}

/// Whether `output` exists, `inputs` is not empty, and no input is newer.
pub fn newer_than_all(output: &Path, inputs: &[PathBuf]) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified());
    let Ok(made) = time(output) else { return false };
    !inputs.is_empty() && inputs.iter().all(|p| time(p).is_ok_and(|t| t <= made))
}

/// The prerequisites in a make rule.
pub fn dependencies(path: &Path) -> Option<Vec<PathBuf>> {
    let text = fs::read_to_string(path).ok()?.replace("\\\n", " ");
    let (_, list) = text.split_once(": ")?;
    Some(list.replace("\\ ", "\0").split_whitespace().map(|p| p.replace('\0', " ").into()).collect())
}
