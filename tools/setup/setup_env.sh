#!/usr/bin/env bash
# Sets up a working virtual environment on a bare machine. Every step checks what is already there, so after an
# interruption or a failure the same command continues where it stopped.
#
#   tools/setup/setup_env.sh [VENV [ENVIRONMENT]]        (VENV defaults to .venv; `make setup` calls this)
#
# ENVIRONMENT names a file of environments/, which says by what it differs from requirements.txt: openmmlab (the default)
# and onedl are MMDetection's own distributions and their maintained line. An environment keeps it, and its TORCH, until
# others are named. Exit status 3: there is no such interpreter.
#
# PYTHON      interpreter of the environment (the one that ENVIRONMENT asks for, else python3.11, else python3)
# TORCH       requirement that pip installs as torch, with options if needed, e.g.
#             TORCH="torch==2.11.0 --index-url https://download.pytorch.org/whl/cu130"
# MMCV_WHEELS page or folder of built mmcv wheels that fit this torch (pip's --find-links)
# MMCV_CACHE  folder of mmcv wheels built here (${XDG_CACHE_HOME:-~/.cache}/apa_mmdet)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=$(mkdir -p "${1:-$root/.venv}" && cd "${1:-$root/.venv}" && pwd)
named=${2:-}
log=$venv/setup.log
pins=$venv/requirements.txt
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
fail() { echo "$*" | tee -a "$log" >&2; exit "${status:-1}"; }

has_venv() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
is_new_enough() { "$1" -c "import sys; sys.exit(sys.version_info < (${wanted/./, }))"; }

choose_environment() {
  environment=${named:-$(cat "$venv/.environment" 2>/dev/null || echo openmmlab)}
  differences=$root/tools/setup/environments/$environment.txt
  [ -e "$differences" ] ||
    fail "there is no environment $environment, but: $(cd "$root/tools/setup/environments" && ls | sed 's/[.]txt$//' | xargs)"
  wanted=$(setting python); wanted=${wanted:-3.11}
  if has_venv && ! is_new_enough "$venv/bin/python"; then  # it keeps the interpreter that it was made with
    fail "$venv has $("$venv/bin/python" -V 2>&1), but the environment $environment needs Python $wanted: remove the folder, or name another"
  fi
  echo "$environment" >"$venv/.environment"
}

# Prints what the environment's file says after `# NAME `.
setting() { sed -n "s/^# $1 //p" "$differences"; }

# Prints the lines of a list that the environment's own neither replace nor omit.
remaining() {
  awk -v omitted="$(setting without)" '
    function name(line) { sub(/==.*/, "", line); gsub(/[-_.]+/, "-", line); return tolower(line) }
    BEGIN { split(omitted, names, " "); for (i in names) known[name(names[i])] = 1 }
    !/^[A-Za-z0-9]/ { next }
    FILENAME == ARGV[1] { known[name($0)] = 1; next }
    !(name($0) in known)' "$differences" "$1"
}

# The whole list of the environment, and what `make test-classification` installs beside it.
write_pins() {
  { grep '^[A-Za-z0-9]' "$differences" || true; remaining "$root/requirements.txt"; } >"$pins"
  remaining "$root/tools/setup/classification.txt" >"$venv/classification.txt"
}

# The interpreter that the environment names: on the PATH, or one of pyenv's.
find_python() {
  local version candidate; version=$(setting python)
  for candidate in "python${version:-3.11}" "${PYENV_ROOT:-$HOME/.pyenv}/versions/${version:-3.11}".*/bin/python ${version:-python3}; do
    if candidate=$(command -v "$candidate") && "$candidate" -V >/dev/null 2>&1; then echo "$candidate"; return; fi
  done
}

make_venv() {
  has_venv && return
  local python=${PYTHON:-$(find_python)}
  [ -n "$python" ] || status=3 fail "no python$wanted found: install Python $wanted, or name one with PYTHON=…"
  is_new_enough "$python" ||
    fail "$python is $("$python" -V 2>&1), but the pinned versions need Python $wanted: name one with PYTHON=…"
  say "creating the environment $venv with $("$python" -V 2>&1)"
  quietly "$python" -m venv "$venv" ||
    fail 'python cannot make environments: on Debian and Ubuntu install the package python3-venv'
}

find_nvcc() { command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null; }

install_torch() {
  local pin; pin=$(grep '^torch==' "$pins")
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

# Both lines fill the same folders (mmcv/, mmdet/ …): the other's packages go before this one's come.
remove_the_other_line() {
  if grep -q '^onedl-mmcv==' "$pins"; then pip uninstall -y mmengine mmcv mmdet mmpretrain
  else pip uninstall -y onedl-mmengine onedl-mmcv onedl-mmdetection onedl-mmpretrain; fi
}

main() {
  : >"$log"
  choose_environment
  write_pins
  make_venv
  # everything but torch, the triton that fits it, and mmcv, which are chosen and built below
  grep -Ev '^(torch|triton|mmcv|onedl-mmcv)==' "$pins" >"$venv/constraints.txt"
  install_torch
  say "installing the pinned packages of requirements.txt ($environment)"
  remove_the_other_line
  pip install --no-deps -r "$venv/constraints.txt"
  quietly "$venv/bin/python" -c 'import triton' || pip install --no-deps "$(grep '^triton==' "$pins")" ||
    echo '               No Triton for this machine: tests of the GPU kernels will be skipped.'
  say 'installing mmcv'
  "$root/tools/setup/build_mmcv.sh" "$venv" "$log"
  say 'installing apa_mmdet (editable)'
  pip install --no-deps --no-build-isolation -e "$root"
  say 'building the host side of the activations'
  quietly "$venv/bin/python" -m apa_mmdet.ops.backends ||
    echo '               It cannot be built, or failed its test, here: activations take more host time a call.'
  say 'checking that it imports'
  quietly "$venv/bin/python" -c 'import apa_mmdet, mmcv.ops; print(apa_mmdet.__version__)'
  say "ready: $venv"
}
main
