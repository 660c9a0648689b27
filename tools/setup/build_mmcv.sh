#!/usr/bin/env bash
# Installs mmcv with its operators into a virtual environment: from the cache of wheels built here, prebuilt where an
# index has it, or built from source.
#
#   tools/setup/build_mmcv.sh VENV [LOG]        (setup_env.sh documents MMCV_WHEELS and MMCV_CACHE)
#
# A plain build takes 15 minutes on two cores, nearly all of them to parse PyTorch's headers in 77 files. Here they are
# parsed twice: the files become two, one for each core.
set -euo pipefail

venv=$1
log=${2:-/dev/stderr}
python=$venv/bin/python
pin=$(grep -E '^(onedl-)?mmcv==' "$venv/requirements.txt")
package=${pin%==*}

build=$("$python" - <<'PY'
import os, platform, sys, torch
from torch.utils.cpp_extension import CUDA_HOME
kind = 'cpu'
if torch.cuda.is_available():
    if CUDA_HOME and os.path.exists(os.path.join(CUDA_HOME, 'bin', 'nvcc')):
        kind = 'cuda-sm' + os.environ.get('TORCH_CUDA_ARCH_LIST', '%d.%d' % torch.cuda.get_device_capability()).replace(' ', '_')
    else:
        print('There is a GPU, but no nvcc: mmcv gets its CPU operators only. Hide the GPU from the tools with '
              'CUDA_VISIBLE_DEVICES=, or install the CUDA toolkit and run set-up again.', file=sys.stderr)
print(f'torch{torch.__version__}-cp{sys.version_info.major}{sys.version_info.minor}-{platform.machine()}-{kind}')
PY
)
cache=${MMCV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/apa_mmdet}/${pin/==/-}-$build

pip() { "$python" -m pip --disable-pip-version-check "$@" >>"$log" 2>&1; }
install() { pip install --no-deps --force-reinstall "$1"; }
installed() { [ "$(cat "$venv/.mmcv" 2>/dev/null)" = "$cache" ] && "$python" -c 'import mmcv.ops' 2>/dev/null; }
cached() { ls "$cache"/*mmcv-*.whl 2>/dev/null; }

# A wheel's name does not say for which torch and CUDA it was compiled: only one whose operators load is kept.
prebuilt() {
  # shellcheck disable=SC2086  # without MMCV_WHEELS, no option
  pip install --no-deps --force-reinstall --only-binary "$package" ${MMCV_WHEELS:+--find-links "$MMCV_WHEELS"} "$pin" || return
  case $build in *-cpu) compiled_for='' ;; *) compiled_for="assert mmcv.ops.get_compiling_cuda_version() != 'not available'" ;; esac
  if "$python" -c "import mmcv.ops; $compiled_for" >>"$log" 2>&1; then
    echo "               prebuilt: $pin${MMCV_WHEELS:+ of $MMCV_WHEELS}"
  else
    echo "               the prebuilt $pin does not fit this torch ($build)"
    return 1
  fi
}

# Makes two files of 77, in csrc/united: the functions that Python calls, which only choose the implementation for a
# device, and the implementations for the CPU. Those define some names of their own more than once.
unite() {
  local file names='PreCalc add bilinear_interpolate_gradient' name
  mkdir united
  for file in pytorch/*.cpp; do echo "#include \"../$file\""; done >united/functions.cpp
  {
    echo '#include "pytorch_cpp_helper.hpp"'
    for file in pytorch/cpu/*.cpp; do
      for name in $names; do echo "#define $name $(basename "$file" .cpp)_$name"; done
      echo "#include \"../$file\""
      for name in $names min max; do echo "#undef $name"; done
    done
  } >united/kernels.cpp
}

# Writes the build's $CXX, which spends no time on the functions that only choose: -O1 instead of -O3.
write_compiler() {
  printf '%s\n' '#!/bin/sh' 'case " $* " in *functions.cpp*) exec g++ "$@" -O1 ;; *) exec g++ "$@" ;; esac' >"$1"
  chmod +x "$1"
}

compile() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  command -v g++ >/dev/null || { echo 'no g++ found: install a C++20 compiler (Debian, Ubuntu: the package g++)' | tee -a "$log" >&2; exit 1; }
  echo "               building $pin from source ($build): 1 to 3 minutes on 2 idle cores, once for this user"
  echo "== building $pin" >>"$log"  # a failure is reported from here
  # asking mmcv for its dependencies fails with Python 3.13 (see below), after pip has unpacked it
  mkdir "$work/pip"
  TMPDIR=$work/pip pip download --no-clean --no-deps --no-build-isolation --no-binary "$package" -d "$work" "$pin" || failed=1
  source=$(find "$work" -path '*/mmcv/ops/csrc' | sed 's#/mmcv/ops/csrc$##;q')
  [ -n "$source" ] || exit "${failed:-1}"
  (cd "$source/mmcv/ops/csrc" && unite)
  # the two files; torch's own choice of C++; and Python 3.13 keeps what exec defines out of locals()
  sed -i -e 's#/csrc/pytorch/\*\.cpp#/csrc/united/functions.cpp#; s#/csrc/pytorch/cpu/\*\.cpp#/csrc/united/kernels.cpp#' \
    -e "s/'-std=c++1[47]'//" -e "s/version_file, 'exec'))/version_file, 'exec'), globals())/" \
    -e "s/locals()\['__version__'\]/globals()['__version__']/" "$source/setup.py"
  export CXX=$work/g++ PATH="$venv/bin:$PATH"
  write_compiler "$CXX"
  case $build in *-cpu) export CUDA_VISIBLE_DEVICES= ;; esac
  # the interpreter's own flags, which CFLAGS replaces, without debugging information, which doubles the time
  export CFLAGS="${CFLAGS:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("CFLAGS"))')} -g0"
  export MAX_JOBS="${MAX_JOBS:-$(nproc)}" MMCV_WITH_OPS=1
  (cd "$source" && "$python" setup.py bdist_wheel --dist-dir "$work/dist") 2>&1 | tee -a "$log" |
    grep --line-buffered -oE '^\[[0-9]+/[0-9]+\]' | while read -r done; do printf '\r               compiled %s ' "$done"; done
  echo
  mkdir -p "$cache"
  wheel=$(basename "$work"/dist/*mmcv-*.whl)
  cp "$work/dist/$wheel" "$cache/$wheel.$$"  # the cache may be on another disk: never a partial file
  mv "$cache/$wheel.$$" "$cache/$wheel"
  echo "               built in $SECONDS s, kept in $cache"
}

if installed; then exit; fi
if [ -z "${MMCV_WHEELS:-}" ] && cached >/dev/null; then
  echo "               from the cache: $cache"
  install "$(cached)"
elif ! prebuilt; then
  cached >/dev/null || compile
  install "$(cached)"
fi
echo "$cache" >"$venv/.mmcv"
