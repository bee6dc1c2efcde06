#!/usr/bin/env bash
# Runs the arm64 Python of ROOT (see arm64_root.sh) under qemu-aarch64, as a given processor.
#
#   scripts/arm64_python.sh ROOT CPU ARGUMENT...        CPU: cortex-a72 or cortex-a76
set -euo pipefail

root=${1:?usage: arm64_python.sh ROOT CPU ARGUMENT...}
cpu=${2:?usage: arm64_python.sh ROOT CPU ARGUMENT...}
shift 2
system=$(cd "$root/debian" && pwd)
wheels=$(cd "$root/wheels" && pwd)

features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
case $cpu in
  cortex-a72) part=0xd08 ;;
  cortex-a76) part=0xd0b features+=" atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp" ;;
  *)
    echo "arm64_python.sh: $cpu: give cortex-a72 or cortex-a76" >&2
    exit 2
    ;;
esac

# LiteRT's CPU detection reads /proc/cpuinfo and crashes on the host's x86 one. It also believes the
# part number over the feature bits, so the file has to tell the processor that qemu emulates.
mkdir -p "$system/proc"
for ((core = 0; core < $(nproc --all); core++)); do
  printf 'processor\t: %d\nBogoMIPS\t: 100.00\nFeatures\t: %s\n' "$core" "$features"
  printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: %s\n' "$part"
  printf 'CPU revision\t: 0\n\n'
done >"$system/proc/cpuinfo"

exec env -i PATH=/usr/bin HOME=/nonexistent LANG=C.UTF-8 QEMU_CPU="$cpu" \
  PYTHONHOME="$system/usr" PYTHONPATH="$wheels" \
  qemu-aarch64 -L "$system" "$system/usr/bin/python3.11" -s "$@"
