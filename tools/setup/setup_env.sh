#!/usr/bin/env bash
# Sets up a working virtual environment on a bare machine. Every step checks what is already there, so after an
# interruption or a failure the same command continues where it stopped.
#
#   tools/setup/setup_env.sh [VENV]        (VENV defaults to .venv; `make setup` calls this)
#
# PYTHON      interpreter of the environment (python3.11, else python3)
# TORCH       requirement that pip installs as torch, with options if needed, e.g.
#             TORCH="torch==2.6.0 --index-url https://download.pytorch.org/whl/cu126"
# MMCV_CACHE  folder of built mmcv wheels (${XDG_CACHE_HOME:-~/.cache}/apa_mmdet)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(mkdir -p "${1:-$root/.venv}" && cd "${1:-$root/.venv}" && pwd)
log=$venv/setup.log
step='starting'
trap 'code=$?; [ $code -eq 0 ] || report_failure >&2' EXIT
trap 'exit 130' INT TERM

# The errors of the step come first: what follows them in the log, such as warnings of pip, may fill the last lines.
report_failure() {
  local output; output=$(tac "$log" 2>/dev/null | sed '/^== /q' | tac) || true
  echo "set-up stopped while: $step"
  { grep -E '^ *(ERROR|[A-Za-z]*Error):|(^|[: ])(fatal )?error:|CMake Error' <<<"$output" || true; } | tail -n 10 | sed 's/^/  ! /'
  tail -n 15 <<<"$output" | sed 's/^/    /'
  echo "The whole log is in $log. Fix the cause and run the same command again: it continues from here."
}

say() { step=$*; printf '[setup %4ds] %s\n' $SECONDS "$*"; echo "== $*" >>"$log"; }
quietly() { "$@" >>"$log" 2>&1; }
pip() { quietly "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

make_venv() {
  local python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
  [ -n "$python" ] || { echo 'no python3 found: install Python 3.11, or name one with PYTHON=…' | tee -a "$log" >&2; exit 1; }
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "$python is $("$python" -V 2>&1), but the pinned versions need Python 3.11: name one with PYTHON=…" | tee -a "$log" >&2; exit 1; }
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  say "creating the environment $venv with $("$python" -V 2>&1)"
  quietly "$python" -m venv "$venv" ||
    { echo 'python cannot make environments: on Debian and Ubuntu install the package python3-venv' | tee -a "$log" >&2; exit 1; }
}

find_nvcc() { command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null; }

install_torch() {
  local pin; pin=$(grep '^torch==' "$root/requirements.txt")
  TORCH=${TORCH:-$(cat "$venv/.torch" 2>/dev/null || true)}  # an earlier set-up's choice is kept
  if [ -z "${TORCH:-}" ] && quietly "$venv/bin/python" -c "
import torch; assert torch.__version__.split('+')[0] == '${pin#torch==}'"; then return; fi
  if [ -n "${TORCH:-}" ]; then
    say "installing $TORCH"
    # shellcheck disable=SC2086  # TORCH may carry pip options
    pip install -c "$venv/constraints.txt" $TORCH
    echo "$TORCH" >"$venv/.torch"
  elif ! command -v nvidia-smi >/dev/null || ! find_nvcc >/dev/null; then
    command -v nvidia-smi >/dev/null &&
      echo "               There is a GPU, but no nvcc to build mmcv's CUDA operators: setting up for the CPU."
    say "installing $pin (its CPU build where the index has one)"
    pip install -c "$venv/constraints.txt" "$pin+cpu" || pip install -c "$venv/constraints.txt" "$pin"
  else
    say "installing $pin"
    pip install -c "$venv/constraints.txt" "$pin"
  fi
}

main() {
  : >"$log"
  make_venv
  # everything but torch, the triton that fits it, and mmcv, which are chosen and built below
  grep -Ev '^(torch|triton|mmcv)==' "$root/requirements.txt" >"$venv/constraints.txt"
  install_torch
  say 'installing the pinned packages of requirements.txt'
  pip install --no-deps -r "$venv/constraints.txt"
  quietly "$venv/bin/python" -c 'import triton' || pip install --no-deps "$(grep '^triton==' "$root/requirements.txt")" ||
    echo '               No Triton for this machine: tests of the GPU kernels will be skipped.'
  say 'installing mmcv'
  "$root/tools/setup/build_mmcv.sh" "$venv" "$log"
  say 'installing apa_mmdet (editable)'
  pip install --no-deps --no-build-isolation -e "$root"
  say 'building the host side of the activations on a CPU'
  quietly "$venv/bin/python" -m apa_mmdet.ops.backends ||
    echo '               It cannot be built here: activations on the CPU take more host time a call.'
  say 'checking that it imports'
  quietly "$venv/bin/python" -c 'import apa_mmdet, mmcv.ops; print(apa_mmdet.__version__)'
  say "ready: $venv"
}
main
