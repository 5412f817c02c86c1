#!/usr/bin/env bash
# Names what this machine lacks, and the command that installs it.
#
#   bash requirements/preflight.sh [cpu|cuda|npu|npu-virtual]
#
# Prints the Python to use on standard output, everything else on standard error. Exit codes: 0 (perhaps with
# warnings), 2 this machine can't be served. MINDRL_PYTHON names the Python to use instead of the one found.
set -euo pipefail

accelerator=${1:-cpu}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

needed_disk_mb=6000   # the environment of the CPU set (3.3 GB), pip's cache beside it, a run's output
[[ $accelerator == cuda ]] && needed_disk_mb=16000
[[ $accelerator == npu-virtual ]] && needed_disk_mb=4000
venv=.venv
[[ $accelerator == npu-virtual ]] && venv=.venv-npu
needed_shm_mb=512     # Ray's object store
needed_memory_mb=6000 # the quick start: two workers of 1.3 GB, Ray and the driver

refusals=0
refuse() { echo "preflight: MISSING: $1" >&2; refusals=$((refusals + 1)); }
warn() { echo "preflight: warning: $1" >&2; }

check_platform() {
  local system machine
  system=$(uname -s)
  machine=$(uname -m)
  if [[ $system != Linux ]]; then
    refuse "Linux; this system is $system, which is not supported"
    return
  fi
  case $machine in
    x86_64) ;;
    aarch64) warn "aarch64: nothing here has been tested on it" ;;
    *) refuse "an x86_64 or aarch64 processor; this one is $machine, which is not supported" ;;
  esac
}

# Prints the first Python that serves: 3.11 is what the sets were tested with.
find_python() {
  local candidate version
  for candidate in ${MINDRL_PYTHON:+"$MINDRL_PYTHON"} python3.11 python3 python3.12; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
      3.11) echo "$candidate"; return ;;
      3.12) warn "Python 3.12: the package sets were tested with 3.11 only"; echo "$candidate"; return ;;
    esac
  done
  return 1
}

check_python_modules() {
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    refuse "Python's venv module; install it: apt-get install $(basename "$1")-venv"
}

check_libraries() {
  local python=$1
  local compiler
  for compiler in "${CXX:-}" c++ g++ clang++; do
    [[ -n $compiler ]] && command -v "$compiler" >/dev/null && break
    compiler=""
  done
  if [[ -z $compiler ]]; then
    if [[ $accelerator == npu-virtual ]]; then
      refuse "a C++ compiler, which builds the simulated runtime; install it: apt-get install g++"
    else
      warn "no C++ compiler: compiled kernels (torch.compile, Triton) can't be used; install it: apt-get install g++"
    fi
  fi
  [[ $accelerator == cpu ]] || return 0
  "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' >/dev/null 2>&1 ||
    warn "no libnuma.so.1: vLLM can't run, and rollout falls back to transformers, which is slower; install it: apt-get install libnuma1"
  if [[ $(uname -m) == x86_64 ]] && ! grep -qw avx2 "${MINDRL_CPUINFO:-/proc/cpuinfo}"; then
    warn "no AVX2 in this processor: vLLM can't run, and rollout falls back to transformers, which is slower"
  fi
}

# free_mb PATH, size_mb PATH: megabytes of the file system that holds PATH.
free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }
size_mb() { df -Pk "$1" | awk 'NR == 2 { print int($2 / 1024) }'; }

# Megabytes of memory of this machine, or of the container it runs in.
memory_mb() {
  local total limit
  total=$(($(getconf _PHYS_PAGES) * $(getconf PAGE_SIZE) / 1048576))
  limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || echo max)
  [[ $limit =~ ^[0-9]+$ && $((limit / 1048576)) -lt $total ]] && total=$((limit / 1048576))
  echo "$total"
}

check_room() {
  local disk shm memory
  disk=$(free_mb "$root")
  if [[ ! -e $root/$venv/mindrl-installed ]] && ((disk < needed_disk_mb)); then
    refuse "disk space: $disk MB free in $root, $needed_disk_mb MB needed; free some, or clone to a larger disk"
  fi
  shm=$(size_mb /dev/shm)
  ((shm >= needed_shm_mb)) ||
    warn "/dev/shm has $shm MB, Ray wants $needed_shm_mb MB: mount -o remount,size=2g /dev/shm (docker run --shm-size=2g)"
  memory=$(memory_mb)
  ((memory >= needed_memory_mb)) ||
    warn "$memory MB of memory: the quick start's two workers need about $needed_memory_mb MB; NPUS_PER_NODE=1 needs less"
}

check_platform
if ((refusals == 0)); then
  if python=$(find_python); then
    check_python_modules "$python"
    check_libraries "$python"
  else
    refuse "Python 3.11; install it: apt-get install python3.11 python3.11-venv (or name one by MINDRL_PYTHON)"
  fi
  check_room
fi
((refusals == 0)) || exit 2
echo "$python"
