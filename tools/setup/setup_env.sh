#!/usr/bin/env bash
# From a bare machine to a working virtual environment. Every step checks what is already there,
# so after an interruption or a failure the same command goes on where it stopped.
#
#   tools/setup/setup_env.sh [VENV]        (VENV defaults to .venv; `make setup` calls this)
#
# PYTHON      interpreter to build the environment from (python3.11, else python3)
# TORCH       what pip installs as torch, with options if need be, e.g.
#             TORCH="torch==2.6.0 --index-url https://download.pytorch.org/whl/cu126"
# MMCV_CACHE  where built mmcv wheels are kept (${XDG_CACHE_HOME:-~/.cache}/apa_mmdet)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(mkdir -p "${1:-$root/.venv}" && cd "${1:-$root/.venv}" && pwd)
log=$venv/setup.log
step='starting'
trap 'code=$?; [ $code -eq 0 ] || {
  echo "set-up stopped while: $step" >&2
  tail -n 15 "$log" 2>/dev/null | sed "s/^/    /" >&2
  echo "The whole log is in $log. Once the cause is mended, run the same command again: it goes on from here." >&2
}' EXIT
trap 'exit 130' INT TERM

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
  TORCH=${TORCH:-$(cat "$venv/.torch" 2>/dev/null || true)}  # the choice of an earlier set-up stands
  if [ -z "${TORCH:-}" ] && quietly "$venv/bin/python" -c "
import torch; assert torch.__version__.split('+')[0] == '${pin#torch==}'"; then return; fi
  if [ -n "${TORCH:-}" ]; then
    say "installing $TORCH"
    # shellcheck disable=SC2086  # TORCH may carry pip options
    pip install -c "$venv/constraints.txt" $TORCH
    echo "$TORCH" >"$venv/.torch"
  elif ! command -v nvidia-smi >/dev/null || ! find_nvcc >/dev/null; then
    command -v nvidia-smi >/dev/null &&
      echo "               There is a GPU, but no nvcc to build mmcv's CUDA operators: everything is set up for the CPU."
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
    echo '               No Triton for this machine: the tests of the GPU kernels will be skipped.'
  say 'installing mmcv'
  "$root/tools/setup/build_mmcv.sh" "$venv" "$log"
  say 'installing apa_mmdet (editable)'
  pip install --no-deps --no-build-isolation -e "$root"
  say 'checking that it imports'
  quietly "$venv/bin/python" -c 'import apa_mmdet, mmcv.ops; print(apa_mmdet.__version__)'
  say "ready: $venv"
}
main
