//! Device code: one fatbin per `.cu` file, with native code for the architectures below and PTX for later ones.

use super::{Source, compile};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const TARGETS: &[&str] = &[
    "arch=compute_80,code=sm_80",
    "arch=compute_86,code=sm_86",
    "arch=compute_89,code=sm_89",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_80,code=compute_80",
];

/// `$NVCC`, `$CUDA_HOME/bin/nvcc`, `$CUDA_PATH/bin/nvcc`, or nvcc on the PATH.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os("NVCC") {
        return Some(named.into());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let installed = homes.map(|home| Path::new(&home).join("bin/nvcc")).find(|p| p.exists());
    installed.or_else(|| {
        let runs = Command::new("nvcc").arg("--version").output().is_ok_and(|o| o.status.success());
        runs.then(|| "nvcc".into())
    })
}

/// Compiles every source and returns the fatbins in the same order. The ptxas statistics go to `ptxas/<stem>.log`.
pub fn build(nvcc: &Path, root: &Path, out: &Path, sources: &[Source]) -> Vec<PathBuf> {
    let (fatbins, logs) = (out.join("fatbin"), out.join("ptxas"));
    for dir in [&fatbins, &logs] {
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    }
    let done = compile::parallel(sources.iter().collect(), |source| {
        let fatbin = fatbins.join(format!("{}.fatbin", source.stem));
        let log = logs.join(format!("{}.log", source.stem));
        let mut args: Vec<String> =
            ["-O3", "-std=c++17", "-lineinfo", "-Xptxas", "-v", "-fatbin"].map(String::from).into();
        args.extend(TARGETS.iter().map(|t| format!("-gencode={t}")));
        args.extend(["-MD".into(), "-MF".into(), compile::suffixed(&fatbin, ".d").display().to_string()]);
        args.push(format!("-I{}", root.join("kernels").display()));
        args.extend([source.path.display().to_string(), "-o".into(), fatbin.display().to_string()]);
        compile::up_to_date_or_run(nvcc, &args, &fatbin, Some(&log))?;
        Ok(fatbin)
    });
    done.unwrap_or_else(|e| panic!("nvcc failed:\n{e}"))
}
