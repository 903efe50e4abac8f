//! What the machine code of each kernel holds: tensor-core products, wide loads, registers; held against `kernels/sass.plan`.

use crate::ptxas::{self, Usage};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, thread};

/// The architecture that is looked at.
const ARCH: &str = "sm_90a";
/// Of a multiprocessor of it: registers, threads, bytes of shared memory (1 KiB of each block is the system's).
const REGISTERS: u64 = 65_536;
const THREADS: u64 = 2048;
const SHARED: u64 = 227 * 1024;
/// Threads per block that occupancy is computed for; all kernels with tiles have these.
const BLOCK: u64 = 256;

/// Instructions of a kernel by what the plan calls them.
type Counts = BTreeMap<&'static str, u64>;

/// Plan name, start of the instruction, and what else its name holds.
const KINDS: [(&str, &str, &str); 11] = [
    ("HMMA", "HMMA", ""),
    ("IMMA", "IMMA", ""),
    ("IGMMA", "IGMMA", ""),
    ("LDSM", "LDSM", ""),
    ("LDGSTS", "LDGSTS", ""),
    ("LDG", "LDG.", ""),
    ("LDG.64", "LDG.", ".64"),
    ("LDG.128", "LDG.", ".128"),
    ("STG", "STG.", ""),
    ("STG.64", "STG.", ".64"),
    ("STG.128", "STG.", ".128"),
];

pub fn facts() -> Result<(), String> {
    let logs = ptxas::newest_logs()?;
    let usage = ptxas::read(&logs)?;
    let counts = disassembled(&logs.with_file_name("fatbin"))?;
    let plan = crate::root().join("kernels/sass.plan");
    let plan = parse_plan(&fs::read_to_string(&plan).map_err(|e| format!("{}: {e}", plan.display()))?)?;

    let width = counts.keys().map(String::len).max().unwrap_or(0).max(6);
    println!("{:width$}  regs  shared  warps  mma  ldsm  cp.async  loads (16 B)  stores (16 B)", "kernel");
    let mut faults = Vec::new();
    for (kernel, c) in &counts {
        let usage = usage.get(&(kernel.clone(), ARCH.to_string())).ok_or(format!("no ptxas log of {kernel}"))?;
        let of = |kind: &str| c.get(kind).copied().unwrap_or(0);
        println!(
            "{kernel:width$}  {:4}  {:6}  {:5}  {:3}  {:4}  {:8}  {:5} {:>6}  {:6} {:>6}",
            usage.registers,
            usage.shared,
            warps(usage),
            of("HMMA") + of("IMMA") + of("IGMMA"),
            of("LDSM"),
            of("LDGSTS"),
            of("LDG"),
            format!("({})", of("LDG.128")),
            of("STG"),
            format!("({})", of("STG.128")),
        );
        for line in plan.iter().filter(|l| matches(&l.pattern, kernel)) {
            let missing = line.wanted.iter().filter(|w| !w.holds(c, usage));
            faults.extend(missing.map(|w| format!("{kernel}: {w:?}, as kernels/sass.plan wants it, does not hold")));
        }
    }
    for line in &plan {
        if !counts.keys().any(|k| matches(&line.pattern, k)) {
            faults.push(format!("kernels/sass.plan: no kernel is called {}", line.pattern));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// Warps of a multiprocessor that registers and static shared memory leave room for, in blocks of [`BLOCK`].
fn warps(usage: &Usage) -> u64 {
    let registers = usage.registers.max(1).next_multiple_of(8) * BLOCK;
    let blocks = (REGISTERS / registers).min(THREADS / BLOCK).min(SHARED / (usage.shared + 1024));
    blocks * BLOCK / 32
}

/// One `cuobjdump` per file, a few at a time.
fn disassembled(fatbins: &Path) -> Result<BTreeMap<String, Counts>, String> {
    let entries = fs::read_dir(fatbins).map_err(|e| format!("{}: {e}", fatbins.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "fatbin"));
    files.sort();
    let tool = match std::env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/cuobjdump"),
        None => "cuobjdump".into(),
    };
    let one = |path: &PathBuf| -> Result<BTreeMap<String, Counts>, String> {
        let mut command = Command::new(&tool);
        if let Some(folder) = tool.parent().filter(|p| !p.as_os_str().is_empty()) {
            // It calls nvdisasm, which lies beside it.
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", folder.display()));
        }
        let out = command.args(["-sass", "-arch", ARCH]).arg(path).output();
        let out = out.map_err(|e| format!("{}: {e}; set CUDA_HOME to a toolkit with cuobjdump", tool.display()))?;
        if !out.status.success() {
            return Err(format!("{} {}: {}", tool.display(), path.display(), String::from_utf8_lossy(&out.stderr)));
        }
        Ok(count(&String::from_utf8_lossy(&out.stdout)))
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let parts = files.chunks(files.len().div_ceil(threads).max(1));
    thread::scope(|scope| {
        let workers: Vec<_> =
            parts.map(|part| scope.spawn(move || part.iter().map(one).collect::<Result<Vec<_>, _>>())).collect();
        let mut all = BTreeMap::new();
        for worker in workers {
            worker.join().expect("no panic in a worker")?.into_iter().for_each(|mut c| all.append(&mut c));
        }
        Ok(all)
    })
}

/// Counts instructions per function of a disassembly.
fn count(text: &str) -> BTreeMap<String, Counts> {
    let mut all: BTreeMap<String, Counts> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some((_, name)) = line.split_once("Function : ") {
            current = Some(all.entry(name.trim().to_string()).or_default());
            continue;
        }
        // "        /*0050*/                   @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;      /* 0x... */"
        let Some((address, rest)) = line.trim_start().strip_prefix("/*").and_then(|l| l.split_once("*/")) else {
            continue;
        };
        let Some(counts) = current.as_mut().filter(|_| !address.contains("0x")) else { continue };
        let Some(op) = rest.split_whitespace().find(|w| !w.starts_with('@')) else { continue };
        for (name, start, part) in KINDS {
            if op.starts_with(start) && op.contains(part) {
                *counts.entry(name).or_default() += 1;
            }
        }
    }
    all
}

/// A line of the plan: kernels, and what must hold of each.
struct Line {
    pattern: String,
    wanted: Vec<Fact>,
}

#[derive(Debug, PartialEq)]
enum Fact {
    Has(&'static str),
    Without(&'static str),
    Warps(u64),
}

impl Fact {
    fn holds(&self, counts: &Counts, usage: &Usage) -> bool {
        match self {
            Self::Has(kind) => counts.get(kind).is_some_and(|n| *n > 0),
            Self::Without(kind) => counts.get(kind).is_none_or(|n| *n == 0),
            Self::Warps(n) => warps(usage) >= *n,
        }
    }
}

/// Lines `<kernel, * for any characters> <fact>...`, facts `KIND`, `!KIND` and `warps>=N`; `#` starts a comment.
fn parse_plan(text: &str) -> Result<Vec<Line>, String> {
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty());
    let parsed = lines.map(|line| {
        let mut words = line.split_whitespace();
        let pattern = words.next().unwrap_or("").to_string();
        let wanted: Vec<Fact> = words
            .map(|word| {
                let kind = |name: &str| KINDS.iter().find(|k| k.0 == name).map(|k| k.0);
                match (word.strip_prefix("warps>="), word.strip_prefix('!')) {
                    (Some(n), _) => n.parse().ok().map(Fact::Warps),
                    (_, Some(name)) => kind(name).map(Fact::Without),
                    _ => kind(word).map(Fact::Has),
                }
                .ok_or(format!("kernels/sass.plan: '{word}' in '{line}' is no fact"))
            })
            .collect::<Result<_, _>>()?;
        if wanted.is_empty() {
            return Err(format!("kernels/sass.plan: '{line}' wants nothing"));
        }
        Ok(Line { pattern, wanted })
    });
    parsed.collect()
}

/// Whether `pattern`, in which `*` stands for any characters, is `name`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            (0..=name.len()).filter(|i| name.is_char_boundary(*i)).any(|i| matches(rest, &name[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_instructions_of_each_function() {
        let text = "\t\tFunction : conv\n\t.headerflags\n        /*0000*/                   LDC R1, c[0x0][0x28] ;            /* 0x00 */\n  \
                    /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;  /* 0x11 */\n      /* 0x000e220000000800 */\n  \
                    /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;  /* 0x */\n\t\tFunction : add\n  \
                    /*0010*/              @P1 STG.E desc[UR4][R2.64], R0 ;  /* 0x11 */\n";
        let counts = count(text);
        assert_eq!(counts["conv"], BTreeMap::from([("HMMA", 1), ("LDG", 1), ("LDG.128", 1)]));
        assert_eq!(counts["add"], BTreeMap::from([("STG", 1)]));
    }

    #[test]
    fn patterns_and_plans() {
        assert!(
            matches("conv2d_*_tf32_*", "conv2d_fprop_tf32_n64") && !matches("conv2d_*_tf32", "conv2d_fprop_tf32_n64")
        );
        assert!(matches("add", "add") && !matches("add", "adds"));
        let plan = parse_plan("# all\nconv* HMMA !LDG.64 warps>=16 # why\n").unwrap();
        assert_eq!(plan[0].wanted, [Fact::Has("HMMA"), Fact::Without("LDG.64"), Fact::Warps(16)]);
        assert!(parse_plan("conv* FMA").is_err() && parse_plan("conv*").is_err());
    }

    #[test]
    fn warps_of_registers_and_shared_memory() {
        let usage = |registers, shared| Usage { registers, shared, ..Usage::default() };
        assert_eq!(warps(&usage(32, 0)), 64);
        assert_eq!(warps(&usage(128, 28_672)), 16);
        assert_eq!(warps(&usage(16, 100 * 1024)), 16);
    }
}
