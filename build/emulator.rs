//! The SIMT emulator: `emu/libcuda.so`, and `emu_check/libcuda.so` with instrumented kernels, the checker and the
//! planted bugs. Both have the SONAME `libcuda.so`: once one is loaded, it is what `dlopen("libcuda.so")` finds.

use super::{Source, compile};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// `$CXX`, or the first of the usual names that runs.
pub fn compiler() -> Option<PathBuf> {
    let named = env::var_os("CXX").map(PathBuf::from);
    named
        .into_iter()
        .chain(["c++", "g++", "clang++"].map(PathBuf::from))
        .find(|cxx| Command::new(cxx).arg("--version").output().is_ok_and(|o| o.status.success()))
}

const RUNTIME: &[&str] = &["fiber", "simt", "wgmma", "memory", "launch", "driver", "driver_stream"];
const CHECKER: &[&str] = &["check", "tsan_abi"];

struct Unit {
    source: PathBuf,
    object: PathBuf,
    flags: Vec<String>,
}

/// Builds both libraries and returns their paths.
pub fn build(cxx: &Path, root: &Path, out: &Path, shipped: &[Source], planted: &[Source]) -> (PathBuf, PathBuf) {
    let (plain_dir, check_dir) = (out.join("emu"), out.join("emu_check"));
    let mut units = units(root, &plain_dir, shipped.iter().collect(), false);
    let plain_count = units.len();
    units.extend(self::units(root, &check_dir, shipped.iter().chain(planted).collect(), true));

    let objects = compile::parallel(units, |unit| {
        let mut args = unit.flags;
        args.extend(["-MMD", "-MF"].map(String::from));
        args.push(compile::suffixed(&unit.object, ".d").display().to_string());
        args.extend(["-c".into(), unit.source.display().to_string()]);
        args.extend(["-o".into(), unit.object.display().to_string()]);
        compile::up_to_date_or_run(cxx, &args, &unit.object, None)?;
        Ok(unit.object)
    });
    let objects = objects.unwrap_or_else(|e| panic!("the emulator does not compile:\n{e}"));
    let (plain, checking) = objects.split_at(plain_count);
    (link(cxx, &plain_dir, plain), link(cxx, &check_dir, checking))
}

fn units(root: &Path, dir: &Path, sources: Vec<&Source>, check: bool) -> Vec<Unit> {
    fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let emu = root.join("kernels/emu");
    let mut runtime = common_flags(root);
    let mut kernel = runtime.clone();
    if check {
        runtime.extend(["-DSIMT_CHECK", "-g"].map(String::from));
        kernel.extend(["-DSIMT_CHECK", "-g", "-fsanitize=thread", "-Wno-tsan"].map(String::from));
    }
    let names = RUNTIME.iter().chain(if check { CHECKER } else { &[] });
    let mut all: Vec<Unit> = names
        .map(|name| Unit {
            source: emu.join(format!("{name}.cpp")),
            object: dir.join(format!("rt_{name}.o")),
            flags: runtime.clone(),
        })
        .collect();

    let mut table = format!("#include \"{}\"\nextern \"C\" {{\n", emu.join("simt.h").display());
    let mut list = String::new();
    for source in sources {
        let mut text = format!("#include \"{}\"\n", source.path.display());
        for k in &source.kernels {
            writeln!(text, "SIMT_KERNEL({}{}{})", k.name, if k.bounds.is_empty() { "" } else { ", " }, k.bounds)
                .unwrap();
            writeln!(table, "extern const simt::Entry simt_entry_{};", k.name).unwrap();
            write!(list, "&simt_entry_{}, ", k.name).unwrap();
        }
        if source.kernels.is_empty() {
            continue;
        }
        let wrapper = dir.join(format!("k_{}.cpp", source.stem));
        compile::write_if_changed(&wrapper, &text);
        all.push(Unit { source: wrapper, object: dir.join(format!("k_{}.o", source.stem)), flags: kernel.clone() });
    }
    writeln!(table, "extern const simt::Entry* const simt_table[];").unwrap();
    writeln!(table, "const simt::Entry* const simt_table[] = {{{list}nullptr}};\n}}").unwrap();
    let path = dir.join("table.cpp");
    compile::write_if_changed(&path, &table);
    all.push(Unit { source: path, object: dir.join("table.o"), flags: runtime });
    all
}

fn common_flags(root: &Path) -> Vec<String> {
    // No contraction: a * b + c is two roundings unless a kernel says __fmaf_rn. -fno-strict-aliasing because device
    // code reinterprets vectors of 16 bytes freely.
    let mut flags: Vec<String> = [
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-fno-exceptions",
        "-fno-math-errno",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-fvisibility-inlines-hidden",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-Wno-unused-function",
        "-Wno-unused-variable",
        "-pthread",
    ]
    .map(String::from)
    .into();
    // The processor's FMA and half conversions, if this machine (which will also run the emulator) has them.
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            flags.push("-march=x86-64-v3".into());
        }
        // A library opened at run time cannot use initial-exec TLS; descriptors are nearly as fast.
        flags.push("-mtls-dialect=gnu2".into());
    }
    flags.push(format!("-I{}", root.join("kernels").display()));
    flags
}

fn link(cxx: &Path, dir: &Path, objects: &[PathBuf]) -> PathBuf {
    let library = dir.join("libcuda.so");
    let list = dir.join("objects.txt");
    let text: String = objects.iter().map(|o| format!("{}\n", o.display())).collect();
    compile::write_if_changed(&list, &text);
    let inputs: Vec<PathBuf> = objects.iter().chain([&list]).cloned().collect();
    if !compile::newer_than_all(&library, &inputs) {
        // Written beside and renamed: a process that has the old library mapped keeps it.
        let new = dir.join("libcuda.so.new");
        let done = Command::new(cxx)
            .args(["-shared", "-pthread", "-Wl,-soname,libcuda.so", "-Wl,-Bsymbolic", "-o"])
            .arg(&new)
            .args(objects)
            .arg("-ldl")
            .output()
            .unwrap_or_else(|e| panic!("{}: {e}", cxx.display()));
        assert!(done.status.success(), "the emulator does not link:\n{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(&new, &library).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
    }
    library
}
