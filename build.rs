//! Builds what a compiler other than rustc must: the device code (nvcc, if there is one) and the SIMT emulator (a C++
//! compiler, feature `emulator`). Without a `kernels/*.cu` or without nvcc the crate builds all the same.

#[path = "build/compile.rs"]
mod compile;
#[path = "build/emulator.rs"]
mod emulator;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/scan.rs"]
mod scan;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A `.cu` file and the kernels in it.
pub struct Source {
    pub path: PathBuf,
    /// File name without `.cu`: the module's name.
    pub stem: String,
    pub kernels: Vec<scan::Kernel>,
}

fn main() {
    let out = PathBuf::from(env::var("OUT_DIR").unwrap());
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
    for path in ["build.rs", "build", "kernels"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for var in ["CXX", "NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={var}");
    }

    let emulate = env::var_os("CARGO_FEATURE_EMULATOR").is_some();
    let nvcc = nvcc::find();
    let preprocessor = if emulate || nvcc.is_some() { emulator::compiler() } else { None };
    let read = |folder: &str| sources(&root.join(folder), &out, preprocessor.as_deref());

    let mut shipped = read("kernels");
    shipped.extend(read("kernels/emu/selftest"));
    let planted = read("kernels/emu/planted");
    // Without a preprocessor, kernels that macros define are not told apart; nothing is compiled then either.
    if preprocessor.is_some() {
        check_unique(shipped.iter().chain(&planted));
    }

    let (plain, checking) = if emulate {
        let cxx = preprocessor.expect(
            "the emulator needs a C++17 compiler: install g++ (or set CXX), or build with --no-default-features",
        );
        emulator::build(&cxx, &root, &out, &shipped, &planted)
    } else {
        Default::default()
    };
    println!("cargo:rustc-env=GHOSTBIT_EMULATOR={}", plain.display());
    println!("cargo:rustc-env=GHOSTBIT_EMULATOR_CHECK={}", checking.display());

    let fatbins = match nvcc {
        Some(nvcc) => nvcc::build(&nvcc, &root, &out, &shipped),
        None => {
            println!("cargo:warning=nvcc not found: built without CUDA device code (set NVCC or CUDA_HOME to add it)");
            vec![]
        }
    };
    write_modules(&out.join("modules.rs"), &shipped, &fatbins);
}

fn sources(folder: &Path, out: &Path, preprocessor: Option<&Path>) -> Vec<Source> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<_> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "cu")).collect();
    paths.sort();
    compile::parallel(paths, |path| {
        let stem = path.file_stem().unwrap().to_str().expect("kernel file names are UTF-8").to_string();
        Ok(Source { kernels: scan::kernels(&path, out, preprocessor)?, path, stem })
    })
    .unwrap_or_else(|e| panic!("{e}"))
}

/// Modules are found by stem and kernels by name, whatever folder they are in.
fn check_unique<'a>(all: impl Iterator<Item = &'a Source>) {
    let (mut stems, mut names) = (std::collections::HashSet::new(), std::collections::HashMap::new());
    for source in all {
        assert!(stems.insert(&source.stem), "two kernel files are called {}.cu", source.stem);
        for kernel in &source.kernels {
            if let Some(other) = names.insert(&kernel.name, &source.stem) {
                panic!("kernel {} is defined in {other}.cu and in {}.cu", kernel.name, source.stem);
            }
        }
    }
}

/// `KERNELS`: kernel name and file stem, always. `MODULES`: file stem and fatbin, empty without nvcc.
fn write_modules(path: &Path, sources: &[Source], fatbins: &[PathBuf]) {
    let mut s = String::from("pub static KERNELS: &[(&str, &str)] = &[\n");
    for source in sources {
        for kernel in &source.kernels {
            writeln!(s, "    ({:?}, {:?}),", kernel.name, source.stem).unwrap();
        }
    }
    s += "];\npub static MODULES: &[(&str, &[u8])] = &[\n";
    for (source, fatbin) in sources.iter().zip(fatbins) {
        writeln!(s, "    ({:?}, include_bytes!({:?})),", source.stem, fatbin).unwrap();
    }
    s += "];\n";
    compile::write_if_changed(path, &s);
}
