//! Runs side by side: workers with threads of their own take one run after another.

use super::super::job::{Done, Job, RunConfig};
use super::Shared;
use crate::train::Event;
use crate::{Error, Result};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Instant;

/// How a run ended.
pub enum End {
    Finished(Value),
    /// It was finished before this sweep.
    Kept(Value),
    Failed(String),
    /// Stopped by Ctrl-C; what the error says.
    Interrupted(String),
}

/// What workers tell while they go.
pub enum Told {
    /// Iterations done since the last message, of any run.
    Iterations(u64),
    /// Run of this index has ended, after seconds.
    Ended(usize, End, f64),
}

/// Does the runs `todo` (indices into `runs`) with `jobs` workers of `threads` CPU threads each and hands `tell` what they
/// say, on this thread. After `stop` no run is begun; those under way write checkpoints.
pub fn work(
    shared: &Shared,
    todo: &[usize],
    jobs: usize,
    threads: usize,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Told) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                // The worker is one of its pool's threads: what a run does in parallel stays among them.
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
                while let Some(&index) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let start = Instant::now();
                    let end = match &pool {
                        Ok(_) => one(shared, &shared.runs[index], stop, &sender, start),
                        Err(e) => End::Failed(format!("no threads: {e}")),
                    };
                    // Nobody listens any more when the summary could not be written.
                    if sender.send(Told::Ended(index, end, start.elapsed().as_secs_f64())).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let mut done = Ok(());
        for told in receiver {
            if done.is_ok() {
                done = tell(told);
                if done.is_err() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        }
        done
    })
}

/// One run; whatever goes wrong in it is its own end only.
fn one(shared: &Shared, config: &RunConfig, stop: &AtomicBool, sender: &mpsc::Sender<Told>, start: Instant) -> End {
    let mut last = None;
    let mut tell = |event: &Event| {
        if let Event::Generator { it, .. } | Event::Student { it, .. } = event {
            let more = it.saturating_sub(last.replace(*it).unwrap_or(*it - 1));
            let _ = sender.send(Told::Iterations(more));
        }
    };
    let folder = shared.folder(config);
    match catch_unwind(AssertUnwindSafe(|| run(shared, config, &folder, stop, &mut tell, start))) {
        Ok(Ok(document)) => End::Finished(document),
        Ok(Err(e @ Error::Interrupted { .. })) => End::Interrupted(e.to_string()),
        Ok(Err(e)) => End::Failed(e.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            End::Failed(format!("panicked: {text}"))
        }
    }
}

fn run(
    shared: &Shared,
    config: &RunConfig,
    folder: &Path,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(&Event),
    start: Instant,
) -> Result<Value> {
    let begun = RunConfig::load(folder);
    if let Ok(other) = &begun {
        if other.to_toml()? != config.to_toml()? {
            let detail = "holds a run of other settings; give another --out, or take that folder away";
            return Err(Error::file(folder, detail));
        }
    }
    let resume = begun.is_ok() && folder.join("checkpoint.safetensors").is_file();
    let teacher = shared.teacher()?;
    let job = Job::new(config, folder, teacher, shared.sets, resume)?;
    let Done { document, .. } = job.finish(start, shared.why, shared.checkpoint_every, stop, tell)?;
    Ok(document)
}

/// The summary of a run that `folder` holds finished, with these settings.
pub fn finished(config: &RunConfig, folder: &Path) -> Result<Option<Value>> {
    let Ok(other) = RunConfig::load(folder) else { return Ok(None) };
    if other.to_toml()? != config.to_toml()? {
        return Ok(None);
    }
    let text = std::fs::read(folder.join("summary.json"));
    Ok(text.ok().and_then(|t| serde_json::from_slice(&t).ok()))
}
