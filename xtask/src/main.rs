//! `cargo xtask <command>`: chores that need more than cargo.

mod bundle;
mod ptxas;
mod sass;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask <command>

  ptxas-report          registers, shared memory, stack and spills of every kernel, from the last build with nvcc;
                        fails on local memory that kernels/local_memory.allow does not explain
  sass-facts            what each kernel's machine code for sm_90a holds (tensor-core products, 16-byte loads, warps that fit),
                        from the same build; fails where kernels/sass.plan is not met. Needs cuobjdump (CUDA_HOME)
  gpu-bundle [FILE]     tests, benches and CLI built for a GPU, in a .tar.gz with a run.sh that needs no Rust
                        (default: target/ghostbit-gpu.tar.gz)
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ptxas-report"] => ptxas::report(),
        ["sass-facts"] => sass::facts(),
        ["gpu-bundle"] => bundle::make(&target_dir().join("ghostbit-gpu.tar.gz")),
        ["gpu-bundle", file] => bundle::make(Path::new(file)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").into()
}

/// cargo put this program at `<target>/<profile>/xtask`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this program");
    exe.ancestors().nth(2).expect("a target directory").into()
}
