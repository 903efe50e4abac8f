#!/bin/sh
# Runs the tests, then the benches, on this machine's NVIDIA GPU.
#
#   ./run.sh            everything
#   ./run.sh tests      the tests only
#   ./run.sh benches    the benches only
cd "$(dirname "$0")" || exit 1
what=${1:-all}
export GHOSTBIT_TEST_DRIVER=nvidia
export GHOSTBIT_BENCH_DEVICE=cuda
# Where the tests of the command line find it.
export CARGO_BIN_EXE_ghostbit="$PWD/bin/ghostbit"
export RUST_BACKTRACE=1
failed=

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo "nvidia-smi not found"
run() {
  echo "== $1"
  "$@" || failed="$failed $1"
}
if [ "$what" != benches ]; then
  for t in tests/*; do [ -x "$t" ] && run "$t"; done
fi
if [ "$what" != tests ]; then
  for b in benches/*; do [ -x "$b" ] && run "$b" --bench; done
fi
if [ -n "$failed" ]; then
  echo "FAILED:$failed"
  exit 1
fi
echo "all passed"
