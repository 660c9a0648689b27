#!/usr/bin/env bash
# Installs mmcv with its operators into a virtual environment: from the wheel cache, or built from source.
# The package index has no mmcv wheel, and a plain build takes 15 minutes on two cores, nearly all of them to parse
# PyTorch's headers in 80 files. A precompiled header with the build's own flags takes a file from 18 s to 4 s.
#
#   tools/setup/build_mmcv.sh VENV [LOG]
set -euo pipefail

venv=$1
log=${2:-/dev/stderr}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$venv/bin/python
pin=$(grep '^mmcv==' "$root/requirements.txt")
version=${pin#mmcv==}

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
cache=${MMCV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/apa_mmdet}/mmcv-$version-$build

install() { "$python" -m pip --disable-pip-version-check install --no-deps --force-reinstall "$1" >>"$log" 2>&1; }
installed() { [ "$(cat "$venv/.mmcv" 2>/dev/null)" = "$cache" ] && "$python" -c 'import mmcv.ops' 2>/dev/null; }

# Writes the build's $CXX: it makes the precompiled header once, with the flags it is called with, then compiles.
write_compiler() {
  cat >"$1" <<'SH'
#!/usr/bin/env bash
set -euo pipefail
header=$MMCV_SOURCE/mmcv/ops/csrc/common/pytorch_cpp_helper.hpp
case " $* " in
  *" -c "*.cpp*)
    flags=(); skip=
    for arg in "$@"; do
      if [ -n "$skip" ]; then skip=; continue; fi
      case $arg in -o|-MF) skip=1 ;; -c|-MMD|-MD|*.cpp) ;; *) flags+=("$arg") ;; esac
    done
    exec 9>"$header.lock"
    flock 9
    if [ ! -e "$header.gch" ]; then
      g++ "${flags[@]}" -x c++-header "$header" -o "$header.tmp"
      mv "$header.tmp" "$header.gch"
    fi
    exec 9>&- ;;
esac
exec g++ "$@"
SH
  chmod +x "$1"
}

compile() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM
  command -v g++ >/dev/null || { echo 'no g++ found: install a C++17 compiler (Debian, Ubuntu: the package g++)' | tee -a "$log" >&2; exit 1; }
  echo "               building mmcv $version from source ($build): 3 to 8 minutes on 2 idle cores, once for this user"
  "$python" -m pip --disable-pip-version-check download --no-deps --no-build-isolation --no-binary mmcv -d "$work" "$pin" >>"$log" 2>&1
  tar -xf "$work"/mmcv-*.tar.gz -C "$work"
  export MMCV_SOURCE=$work/mmcv-$version CXX=$work/g++ PATH="$venv/bin:$PATH"
  write_compiler "$CXX"
  case $build in *-cpu) export CUDA_VISIBLE_DEVICES= ;; esac
  # the interpreter's own flags, which CFLAGS replaces, without debugging information, which doubles the time
  export CFLAGS="${CFLAGS:-$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("CFLAGS"))')} -g0"
  export MAX_JOBS="${MAX_JOBS:-$(nproc)}" MMCV_WITH_OPS=1
  (cd "$MMCV_SOURCE" && "$python" setup.py bdist_wheel --dist-dir "$work/dist") 2>&1 | tee -a "$log" |
    grep --line-buffered -oE '^\[[0-9]+/[0-9]+\]' | while read -r done; do printf '\r               compiling %s ' "$done"; done
  echo
  mkdir -p "$cache"
  wheel=$(basename "$work"/dist/mmcv-*.whl)
  cp "$work/dist/$wheel" "$cache/$wheel.$$"  # the cache may be on another disk: never a partial file
  mv "$cache/$wheel.$$" "$cache/$wheel"
  echo "               built in $SECONDS s, kept in $cache"
}

if installed; then exit; fi
if ls "$cache"/mmcv-*.whl >/dev/null 2>&1; then
  echo "               from the cache: $cache"
else
  compile
fi
install "$cache"/mmcv-*.whl
echo "$cache" >"$venv/.mmcv"
