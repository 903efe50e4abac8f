//! What ptxas says of each kernel: registers, shared memory, stack, spills.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[derive(Default, Debug, PartialEq)]
pub struct Usage {
    pub registers: u64,
    pub shared: u64,
    pub stack: u64,
    pub spill_stores: u64,
    pub spill_loads: u64,
}

impl Usage {
    fn local(&self) -> bool {
        self.stack + self.spill_stores + self.spill_loads > 0
    }
}

/// (kernel, architecture) -> usage
pub type Report = BTreeMap<(String, String), Usage>;

pub fn report() -> Result<(), String> {
    let report = read(&newest_logs()?)?;
    let allow = crate::root().join("kernels/local_memory.allow");
    let allowed = allowances(&fs::read_to_string(allow).unwrap_or_default())?;

    let width = report.keys().map(|(k, _)| k.len()).max().unwrap_or(0).max(6);
    println!("{:width$}  arch    regs  shared  stack  spill st  spill ld", "kernel");
    let mut bad = vec![];
    for ((kernel, arch), u) in &report {
        let Usage { registers, shared, stack, spill_stores, spill_loads } = u;
        print!("{kernel:width$}  {arch:6} {registers:5} {shared:7} {stack:6} {spill_stores:9} {spill_loads:9}");
        match allowed.iter().find(|a| a.kernel == *kernel && (a.arch == "*" || a.arch == *arch)) {
            Some(a) if u.local() => print!("  allowed: {}", a.reason),
            _ if u.local() => {
                print!("  LOCAL MEMORY");
                bad.push(format!("{kernel} on {arch}"));
            }
            _ => {}
        }
        println!();
    }
    for a in &allowed {
        let needed = |((k, arch), u): (&(String, String), &Usage)| {
            *k == a.kernel && (a.arch == "*" || a.arch == *arch) && u.local()
        };
        if !report.iter().any(needed) {
            println!("note: kernels/local_memory.allow: {} {} is not needed (any more)", a.kernel, a.arch);
        }
    }
    if bad.is_empty() {
        return Ok(());
    }
    Err(format!("local memory without a reason in kernels/local_memory.allow: {}", bad.join(", ")))
}

/// All logs of a folder.
pub fn read(logs: &Path) -> Result<Report, String> {
    let mut report = Report::new();
    let entries = fs::read_dir(logs).map_err(|e| format!("{}: {e}", logs.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        parse(&fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?, &mut report);
    }
    Ok(report)
}

/// The build script keeps its output in `<target>/<profile>/build/ghostbit-<hash>/out`.
pub fn newest_logs() -> Result<PathBuf, String> {
    let mut newest: Option<(SystemTime, PathBuf)> = None;
    for profile in ["release", "debug"] {
        let Ok(builds) = fs::read_dir(crate::target_dir().join(profile).join("build")) else { continue };
        for build in builds.flatten() {
            let modules = build.path().join("out/modules.rs");
            let logs = build.path().join("out/ptxas");
            let made = fs::metadata(&logs).and_then(|_| fs::metadata(modules)).and_then(|m| m.modified());
            if let Ok(time) = made
                && newest.as_ref().is_none_or(|(t, _)| time > *t)
            {
                newest = Some((time, logs));
            }
        }
    }
    newest.map(|(_, p)| p).ok_or_else(|| "no ptxas logs: build with nvcc first (set CUDA_HOME)".into())
}

/// Reads `nvcc -Xptxas -v` output. Functions that were not inlined count for the kernel they are printed under.
fn parse(log: &str, report: &mut Report) {
    let mut current: Option<(String, String)> = None;
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut parts = rest.split('\'');
            if let (Some(kernel), Some(arch)) = (parts.next(), parts.nth(1)) {
                let key = (kernel.to_string(), arch.to_string());
                report.insert(key.clone(), Usage::default());
                current = Some(key);
            }
        }
        let Some(usage) = current.as_ref().and_then(|key| report.get_mut(key)) else { continue };
        for (slot, unit) in [
            (&mut usage.stack, " bytes stack frame"),
            (&mut usage.spill_stores, " bytes spill stores"),
            (&mut usage.spill_loads, " bytes spill loads"),
            (&mut usage.registers, " registers"),
            (&mut usage.shared, " bytes smem"),
        ] {
            if let Some(n) = number_before(line, unit) {
                *slot = (*slot).max(n);
            }
        }
    }
}

fn number_before(line: &str, unit: &str) -> Option<u64> {
    let before = &line[..line.find(unit)?];
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

struct Allowance {
    kernel: String,
    arch: String,
    reason: String,
}

/// Lines `<kernel> <arch or *> <reason>`; `#` starts a comment line.
fn allowances(text: &str) -> Result<Vec<Allowance>, String> {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, char::is_whitespace);
            match (words.next(), words.next(), words.next().map(str::trim)) {
                (Some(kernel), Some(arch), Some(reason)) if !reason.is_empty() => {
                    Ok(Allowance { kernel: kernel.into(), arch: arch.into(), reason: reason.into() })
                }
                _ => Err(format!("kernels/local_memory.allow: want '<kernel> <arch or *> <reason>', got '{line}'")),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_registers_and_spills() {
        let log = "ptxas info    : Compiling entry function 'conv' for 'sm_80'\n\
                   ptxas info    : Function properties for conv\n    \
                   752 bytes stack frame, 1408 bytes spill stores, 1776 bytes spill loads\n\
                   ptxas info    : Used 32 registers, used 1 barriers, 512 bytes smem, 368 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'conv' for 'sm_90a'\n    \
                   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 20 registers\n";
        let mut report = Report::new();
        parse(log, &mut report);
        let usage = |arch: &str| &report[&("conv".to_string(), arch.to_string())];
        let spilling = Usage { registers: 32, shared: 512, stack: 752, spill_stores: 1408, spill_loads: 1776 };
        assert_eq!(usage("sm_80"), &spilling);
        assert_eq!(usage("sm_90a"), &Usage { registers: 20, ..Usage::default() });
    }

    #[test]
    fn an_allowance_needs_a_reason() {
        assert_eq!(
            allowances("# why\n\nconv * dynamic index into the taps\n").unwrap()[0].reason,
            "dynamic index into the taps"
        );
        assert!(allowances("conv sm_80").is_err());
    }
}
