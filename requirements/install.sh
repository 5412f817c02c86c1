#!/usr/bin/env bash
# Makes the environment of this checkout, or brings it up to date; seconds when there is nothing to do.
#
#   bash requirements/install.sh [--accelerator auto|cpu|cuda|npu|npu-virtual] [--dev]
#
# auto (the default) keeps the device an existing .venv was made for, else takes this machine's. npu-virtual goes
# into .venv-npu, everything else into .venv. --dev adds the tools of tests and gates. An interrupted run continues
# when run again. MINDRL_WHEEL_CACHE names a folder outside the checkout where wheels are kept for the next time.
# Exit codes: 0 done, 1 an installation failed, 2 this machine or request can't be served, 130 interrupted.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }

accelerator=auto
dev=false
while (($#)); do
  case $1 in
    --accelerator) accelerator=${2:-}; shift; (($# == 0)) || shift ;;
    --accelerator=*) accelerator=${1#*=}; shift ;;
    --dev) dev=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) echo "install.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done

this_machines_accelerator() {
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q .; then
    echo cuda
  elif [[ -e /dev/davinci0 ]]; then
    echo npu
  else
    echo cpu
  fi
}

if [[ $accelerator == auto ]]; then
  accelerator=$(cat .venv/mindrl-accelerator 2>/dev/null || this_machines_accelerator)
fi
venv=$root/.venv
options=()
startup=
case $accelerator in
  cpu) sets=(requirements/cpu.txt); options=(--cpu-torch) ;;
  cuda) sets=(requirements/cuda.txt) ;;
  npu) sets=(requirements/npu-production.txt); options=(--resolve) ;;
  npu-virtual)
    venv=$root/.venv-npu; sets=(requirements/npu-virtual.txt); options=(--cpu-torch)
    # Read by Python at its start: the way by which torch_npu reaches the simulated runtime, or is left alone without it.
    startup=hal/testing/virtual_npu/hal_virtual_npu.pth ;;
  *) echo "install.sh: --accelerator '$accelerator': there are sets for auto, cpu, cuda, npu, npu-virtual" >&2; exit 2 ;;
esac
grep -qs 'dev\.txt$' "$venv/mindrl-installed" && dev=true # once added, kept up to date
$dev && sets+=(requirements/dev.txt)

# What a finished environment's record says. setup.py is in it for the console command.
record() {
  echo "accelerator $accelerator"
  echo "checkout $root"
  sha256sum setup.py ${startup:+"$startup"} "${sets[@]}"
}

if [[ -x $venv/bin/python ]] && record | cmp -s - "$venv/mindrl-installed"; then
  exit 0
fi

python=$(bash requirements/preflight.sh "$accelerator")

# One set-up at a time in one checkout: the quick start and the tests may be started together.
if command -v flock >/dev/null; then
  exec 9>"${TMPDIR:-/tmp}/mindrl-setup-$(id -u)-$(cksum <<<"$venv" | cut -d' ' -f1).lock"
  flock --nonblock 9 || { echo "set-up: waiting for another set-up of $venv"; flock --timeout 1800 9; }
fi

rebuild() {
  echo "set-up: rebuilding ${venv##*/}: $1"
  rm -rf "$venv"
}

if [[ -d $venv ]]; then
  made_for=$(cat "$venv/mindrl-accelerator" 2>/dev/null || echo "$accelerator")
  made_at=$(sed -n 's/^checkout //p' "$venv/mindrl-installed" 2>/dev/null || true)
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    rebuild "its Python does not run"
  elif [[ $made_for != "$accelerator" ]]; then
    rebuild "it was made for $made_for, and $accelerator is asked for"
  elif [[ -n $made_at && $made_at != "$root" ]]; then
    rebuild "it was made in $made_at"
  fi
fi
if [[ ! -d $venv ]]; then
  echo "set-up: making ${venv##*/} for $accelerator (some minutes the first time)"
  "$python" -m venv "$venv" || { rm -rf "$venv"; exit 1; }
fi
echo "$accelerator" >"$venv/mindrl-accelerator"

"$venv/bin/python" requirements/sync.py "${options[@]}" "${sets[@]}"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
if [[ -n $startup ]]; then
  cp "$startup" "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
fi
record >"$venv/mindrl-installed"
echo "set-up: ${venv##*/} is ready for $accelerator"
