#!/usr/bin/env bash
# The aarch64 leg, without an ARM machine:
#
#   kernels  cross-compiles tflite_kernels and runs its C++ tests under qemu-aarch64
#   root     prepares the arm64 Python and the stock aarch64 LiteRT wheel (arm64_root.sh)
#   export   exports models and Keras's predictions for them, on the host
#   run      runs those models in that runtime with our aarch64 delegate, and compares
#
#   PYTHON=.venv/bin/python scripts/test_arm64.sh [STEP...]       default: all four
#
# Needs, of Debian 12: g++-aarch64-linux-gnu qemu-user cmake make googletest libgtest-dev; and a
# Python with kerasq and its dependencies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
jobs=${JOBS:-$(nproc)}
kernels=build/linux-arm64
root=build/arm64-root
models=build/arm64-models

need() {
  command -v "$1" >/dev/null ||
    { echo "test_arm64.sh: no $1: apt-get install $2" >&2; exit 1; }
}

step_kernels() {
  need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
  need qemu-aarch64 qemu-user
  need cmake cmake
  (cd tflite_kernels && cmake --preset linux-arm64)
  cmake --build "$kernels" --parallel "$jobs"
  QEMU_CPU=cortex-a76 ctest --test-dir "$kernels" --output-on-failure --no-tests=error -j "$jobs"
}

step_root() {
  PYTHON=$python scripts/arm64_root.sh "$root"
}

step_export() {
  # The models are written for both; Keras 2 is what kerasq selects by itself.
  TF_USE_LEGACY_KERAS=${TF_USE_LEGACY_KERAS:-1} TF_CPP_MIN_LOG_LEVEL=3 PYTHONPATH=$PWD \
    "$python" tests/arm64/export_models.py "$models"
}

step_run() {
  need qemu-aarch64 qemu-user
  local library cpu
  library=$(find "$kernels" -name libkerasq_tflite.so -print -quit)
  [[ -n $library ]] || { echo "test_arm64.sh: no library: run the step kernels" >&2; exit 1; }
  # With the dot-product instructions and without: the runtime and our kernels choose by them.
  for cpu in cortex-a76 cortex-a72; do
    echo "$cpu:"
    scripts/arm64_python.sh "$root" "$cpu" tests/arm64/run_models.py "$models" "$library"
  done
}

if (($# == 0)); then
  set -- kernels root export run
fi
for step in "$@"; do
  case $step in
    kernels | root | export | run) ;;
    *) echo "test_arm64.sh: no step $step: kernels, root, export, run" >&2; exit 2 ;;
  esac
  started=$SECONDS
  echo "== arm64: $step"
  "step_$step"
  echo "== arm64: $step: $((SECONDS - started)) s"
done
