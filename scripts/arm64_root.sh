#!/usr/bin/env bash
# Prepares ROOT: Debian's arm64 Python 3.11 with the stock aarch64 LiteRT wheel beside it, to be run
# by scripts/arm64_python.sh under qemu-aarch64. Nothing is installed on the host.
#
#   PYTHON=.venv/bin/python scripts/arm64_root.sh ROOT
#
# The Debian packages come from the machine's own apt sources and the wheels from its own pip index,
# at the versions of ai-edge-litert and numpy that PYTHON has. Each half is written to a folder of
# its own and renamed when complete: a second run does nothing, an interrupted one resumes.
set -euo pipefail

root=${1:?usage: arm64_root.sh ROOT}
python=${PYTHON:-python3}

debian_packages=(
  libc6 libgcc-s1 libstdc++6 libatomic1 libcrypt1
  zlib1g libbz2-1.0 liblzma5 libexpat1 libffi8 libssl3 libuuid1
  python3.11-minimal libpython3.11-minimal libpython3.11-stdlib
)

fail() {
  echo "arm64_root.sh: $*" >&2
  exit 1
}

# is_current FOLDER SIGNATURE: whether FOLDER was completed by the same recipe.
is_current() {
  [[ -f $1/.signature && $(<"$1/.signature") == "$2" ]]
}

# complete PARTIAL FOLDER SIGNATURE: puts a finished folder in its place.
complete() {
  echo "$3" >"$1/.signature"
  rm -rf "$2"
  mv "$1" "$2"
  echo "arm64_root.sh: $2: $(du -sh "$2" | cut -f1)"
}

unpack_debian() {
  local work=$root/debian.work lists package
  lists=$work/lists
  local apt=(
    apt-get -qq
    -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oAPT::Sandbox::User=root
    -oDir::State::Lists="$lists" -oDir::State::status=/dev/null -oDir::Cache="$work/cache"
  )
  rm -rf "$work"
  mkdir -p "$lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/tree"
  "${apt[@]}" update || fail "apt-get could not read the arm64 package lists"
  (cd "$work/debs" && "${apt[@]}" download "${debian_packages[@]}") ||
    fail "apt-get could not download the arm64 packages; they are those of Debian 12"
  for package in "$work"/debs/*.deb; do
    dpkg -x "$package" "$work/tree"
  done
  # Never read by Python; half of the folder.
  rm -rf "$work/tree"/usr/share/{doc,man,locale,lintian} \
    "$work/tree"/usr/lib/aarch64-linux-gnu/gconv
  complete "$work/tree" "$root/debian" "$1"
  rm -rf "$work"
}

unpack_wheels() {
  local work=$root/wheels.work glibc platforms=() wheel
  rm -rf "$work"
  mkdir -p "$work/wheels" "$work/tree"
  # pip takes a platform literally: every glibc up to that of Debian 12 has to be named.
  for glibc in {17..36}; do
    platforms+=(--platform "manylinux_2_${glibc}_aarch64")
  done
  # shellcheck disable=SC2086  # the requirements are words
  "$python" -m pip download -qq --dest "$work/wheels" --only-binary=:all: \
    --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
    "${platforms[@]}" $1 ||
    fail "pip could not download the aarch64 wheels of: $1"
  for wheel in "$work"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$work/tree"
  done
  complete "$work/tree" "$root/wheels" "$1"
  rm -rf "$work"
}

mkdir -p "$root"
root=$(cd "$root" && pwd)

requirements=$("$python" -c '
from importlib.metadata import version
print(*(f"{name}=={version(name)}" for name in ("ai-edge-litert", "numpy")))
' 2>/dev/null) || fail "$python has no ai-edge-litert and numpy: install kerasq there, or set PYTHON"

is_current "$root/debian" "${debian_packages[*]}" || unpack_debian "${debian_packages[*]}"
is_current "$root/wheels" "$requirements" || unpack_wheels "$requirements"
echo "arm64_root.sh: ready: $root ($requirements)"
