"""Compiles mmcv's operators file by file: those that this project's configs use first, the others while time is left.

    python benchmarks/gpu_check/mmcv_operators.py --check                    # which CUDA files compile, without a GPU
    python benchmarks/gpu_check/mmcv_operators.py --source mmcv-2.1.0        # build mmcv._ext in that folder
    python benchmarks/gpu_check/mmcv_operators.py --source mmcv-2.1.0 --all --minutes 4

``pip install mmcv`` compiles all 150 files or installs nothing. Here each file is an object of its own, in a folder
named after torch, Python, compiler flags and GPU architecture, so that an interrupted build continues and a later one
adds to it. Whatever subset exists is linked: mmcv asserts when it is imported that each function is there, so those
whose file was not compiled are stubs that raise an error with their name.

Needs torch, g++ and nm; for CUDA a CUDA build of torch and the nvcc of its CUDA version, but no GPU: ``FORCE_CUDA=1``
asks for CUDA where none is seen, ``TORCH_CUDA_ARCH_LIST`` names the architecture (default: that of the GPU, else 9.0).
"""

import argparse
import hashlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
# what Mask R-CNN and Faster R-CNN, RetinaNet, deformable detectors and the CARAFE mask heads of configs/ call
IN_USE = (
    *('nms', 'roi_align', 'carafe', 'focal_loss', 'deform_conv', 'modulated_deform_conv', 'ms_deform_attn'),
    *('roi_pool', 'masked_conv2d'),
)
ALWAYS = ('pybind', 'info', 'cudabind')  # the bindings; they name the functions of every other file
SOURCES = 'mmcv/ops/csrc'


class Toolchain(NamedTuple):
    """The commands that compile and link, without files; ``key`` names everything that objects depend on."""

    cxx: list[str]
    nvcc: list[str] | None
    link: list[str]
    key: str


class Failure(ValueError):
    """What cannot be compiled or linked at all, in one line."""


def wants_cuda() -> bool:
    import torch

    return torch.cuda.is_available() or os.environ.get('FORCE_CUDA') == '1'


def toolchain(source: Path, cuda: bool) -> Toolchain:
    """Finds the compilers.

    Raises:
        Failure: without g++ or, for CUDA, without nvcc, with a torch built for the CPU or for another CUDA.
    """
    import torch

    if cuda:
        home, arch = cuda_home(torch.version.cuda), _architecture(torch)
        os.environ['CUDA_HOME'] = str(home)  # read when the next is imported
    from torch.utils import cpp_extension

    compiler = os.environ.get('CXX', 'g++')
    if not shutil.which(compiler.split()[0]):
        raise Failure(f'no {compiler}: install a C++17 compiler (Debian, Ubuntu: the package g++)')
    csrc = source / SOURCES
    standard = re.findall(r"'(-std=c\+\+\d+)'", inspect.getsource(cpp_extension))[-1]  # that of torch's own headers
    defines = ['-DTORCH_EXTENSION_NAME=_ext', '-DTORCH_API_INCLUDE_EXTENSION_H']
    defines += ['-DMMCV_WITH_CUDA'] * cuda + [f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}']
    folders = [csrc / 'pytorch', csrc / 'common', csrc / 'common/cuda', sysconfig.get_path('include')]
    torchs = cpp_extension.include_paths('cuda') if cuda else cpp_extension.include_paths()
    # the shared libstdc++ by its name: a compiler that prefers the archive gives the extension a copy of its own, half
    # bound to the one of torch, and the first stream that it writes to crashes (seen with a wrapped g++ 13)
    nvcc, libraries = None, ['-l:libstdc++.so.6', '-lc10', '-ltorch_cpu', '-ltorch', '-ltorch_python']
    library_folders = [Path(torch.__file__).parent / 'lib']
    if cuda:
        # headers of cuBLAS and others: of the toolkit or, where that is without them, of torch's own packages
        torchs += [str(folder) for folder in Path(torch.__file__).parents[1].glob('nvidia/*/include')]
        libraries += ['-lc10_cuda', '-ltorch_cuda', '-lcudart']
        library_folders += [home / 'lib64']
        nvcc = [
            str(home / 'bin/nvcc'),
            *cpp_extension.COMMON_NVCC_FLAGS,
            f'-gencode=arch=compute_{arch},code=sm_{arch}',
        ]
        nvcc += [standard, '-w', '-Xcompiler', '-fPIC', *defines]
    includes = [f'-I{folder}' for folder in folders] + [f'-isystem{folder}' for folder in torchs]
    cxx = [*compiler.split(), standard, '-O2', '-g0', '-w', '-fPIC', *defines, *includes]
    nvcc = nvcc and [*nvcc, *(option.replace('-isystem', '-I') for option in includes)]
    link = [*compiler.split(), '-shared', *(f'-L{folder}' for folder in library_folders), *libraries]
    flags = ' '.join(option for option in [*cxx, *(nvcc or ())] if not option.startswith(('-I', '-isystem')))
    digest = hashlib.sha256(flags.encode()).hexdigest()[:8]
    kind = f'sm_{arch}' if cuda else 'cpu'
    return Toolchain(cxx, nvcc, link, f'torch{torch.__version__}-{sys.implementation.cache_tag}-{kind}-{digest}')


def cuda_home(wanted: str | None) -> Path:
    """Finds the toolkit whose nvcc is of the CUDA version ``wanted``, that of torch."""
    if wanted is None:
        raise Failure('torch is built for the CPU: run this with a Python that has a CUDA build of torch')
    nvcc = shutil.which('nvcc')
    places = [os.environ.get('CUDA_HOME'), '/usr/local/cuda', nvcc and Path(nvcc).resolve().parents[1]]
    home = next((Path(place) for place in places if place and (Path(place) / 'bin/nvcc').exists()), None)
    if home is None:
        raise Failure(f'no nvcc: install the CUDA {wanted} toolkit, or name its folder with CUDA_HOME')
    says = subprocess.run([home / 'bin/nvcc', '--version'], capture_output=True, text=True).stdout
    release = re.search(r'release (\d+)\.\d+', says)
    if not release or release[1] != wanted.split('.')[0]:
        raise Failure(
            f'{home} is of CUDA {release[1] if release else "?"}, torch of {wanted}: name another with CUDA_HOME'
        )
    return home


def _architecture(torch) -> str:
    named = os.environ.get('TORCH_CUDA_ARCH_LIST', '').replace(';', ' ').split()
    if len(named) > 1:
        raise Failure(f'TORCH_CUDA_ARCH_LIST names {len(named)} architectures: name one')
    if not named:
        capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
        return '{}{}'.format(*capability)
    return named[0].replace('.', '')


def files_of(source: Path, cuda: bool, every: bool) -> list[Path]:
    """Lists what to compile, the slowest first: those in use, then the others if ``every``."""
    csrc = source / SOURCES / 'pytorch'
    patterns = ['*.cpp', 'cpu/*.cpp', *(['cuda/*.cu', 'cuda/*.cpp'] if cuda else [])]
    found = sorted(path for pattern in patterns for path in csrc.glob(pattern))
    if not found:
        raise Failure(f'{source} is not the source of mmcv: it has no {SOURCES}')

    def rank(path: Path) -> tuple:
        return not used(path), path.suffix != '.cu', -path.stat().st_size

    return [path for path in sorted(found, key=rank) if every or used(path)]


def used(path: Path) -> bool:
    return path.stem.removesuffix('_cuda') in (*IN_USE, *ALWAYS)


class Build:
    """Objects of mmcv's files in a folder. ``failed`` maps the files that do not compile to their compiler's output."""

    def __init__(self, source: Path, objects: Path, tools: Toolchain) -> None:
        self.source, self.folder, self.tools = source, objects / tools.key, tools
        self.folder.mkdir(parents=True, exist_ok=True)
        self.failed: dict[Path, str] = {}
        self.seconds: dict[Path, float] = {}

    def object_of(self, path: Path) -> Path:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return self.folder / f'{path.parent.name}.{path.stem}.{digest}.o'

    def command_of(self, path: Path, out: Path) -> list[str]:
        return [*(self.tools.nvcc if path.suffix == '.cu' else self.tools.cxx), '-c', str(path), '-o', str(out)]

    def compile(self, path: Path, deadline: float) -> str:
        """Returns ``kept``, ``compiled``, ``failed``, or ``no time`` if the deadline came before."""
        final = self.object_of(path)
        if final.exists():
            return 'kept'
        if time.monotonic() >= deadline:
            return 'no time'
        start, partial = time.monotonic(), final.with_suffix(f'.{os.getpid()}.part')
        try:
            run = subprocess.run(
                self.command_of(path, partial), capture_output=True, text=True, timeout=deadline - start
            )
        except subprocess.TimeoutExpired:
            partial.unlink(missing_ok=True)
            return 'no time'
        self.seconds[path] = time.monotonic() - start
        if run.returncode:
            self.failed[path] = run.stderr + run.stdout
            partial.unlink(missing_ok=True)
            return 'failed'
        partial.replace(final)  # never a partial object, whenever this is stopped
        return 'compiled'

    def link(self, paths: list[Path]) -> Path:
        """Links the objects that exist, with stubs for the functions of the others, into the folder ``mmcv``."""
        objects = [kept for path in paths if (kept := self.object_of(path)).exists()]
        missing = undefined_functions(objects, self.source / SOURCES)
        with tempfile.TemporaryDirectory() as folder:
            stubs = Path(folder) / 'stubs.cpp'
            stubs.write_text(stubs_for(missing))
            target = self.source / 'mmcv' / f'_ext{sysconfig.get_config_var("EXT_SUFFIX")}'
            partial = target.with_suffix('.part')
            command = [*self.tools.link[:1], '-fPIC', str(stubs), *map(str, objects), *self.tools.link[1:]]
            run = subprocess.run([*command, '-o', str(partial)], capture_output=True, text=True)
        if run.returncode:
            raise Failure(f'the objects do not link: {first_error(run.stderr)}')
        partial.replace(target)
        print(f'linked {target}: {len(objects)} files, {len(missing)} functions raise an error when called', flush=True)
        return target


def undefined_functions(objects: list[Path], sources: Path) -> list[str]:
    """Lists the symbols that the objects use and do not define, as far as they are functions of mmcv's own files."""
    says = subprocess.run(['nm', '-P', *map(str, objects)], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[:2] for line in says.splitlines() if len(line.split()) > 1]
    defined = {name for name, kind in symbols if kind != 'U'}
    text = '\n'.join(path.read_text(errors='replace') for path in sources.rglob('pytorch/**/*') if path.is_file())
    words = set(re.findall(r'\w+', text))
    missing = sorted({name for name, kind in symbols if kind == 'U'} - defined)
    # _Z, a length and a name: outside any namespace, as mmcv's are and torch's are not
    return [name for name in missing if re.match(r'_Z\d', name) and plain_name(name) in words and 'THP' not in name]


def plain_name(symbol: str) -> str:
    """The name of a function in no namespace: ``nms`` of ``_Z3nmsN2at6TensorES0_fi``."""
    length, rest = re.match(r'_Z(\d+)(.*)', symbol).groups()
    return rest[: int(length)]


def stubs_for(symbols: list[str]) -> str:
    lines = ['#include <stdexcept>']
    for i, symbol in enumerate(symbols):
        error = f'mmcv: {plain_name(symbol)} is not in this build, which has the operators in use'
        lines.append(f'void stub_{i}() __asm__("{symbol}");')
        lines.append(f'void stub_{i}() {{ throw std::runtime_error("{error}"); }}')
    return '\n'.join(lines) + '\n'


def first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if re.search(r'error|undefined reference', line, re.I)]
    return (lines or output.strip().splitlines() or ['the compiler says nothing'])[0]


def unpacked(source: Path | None, folder: Path) -> Path:
    """Returns ``source``, or the pinned source distribution, downloaded into ``folder``."""
    if source:
        return source
    pin = re.search(r'^mmcv==(\S+)', (ROOT / 'requirements.txt').read_text(), re.M)
    target = folder / f'mmcv-{pin[1]}'
    if not target.exists():
        download = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', '--no-deps']
        download += ['--no-build-isolation', '--no-binary', 'mmcv', '-d', str(folder), pin[0]]
        env = {key: value for key, value in os.environ.items() if key != 'FORCE_CUDA'}  # mmcv's setup.py would build
        if subprocess.run(download, env=env).returncode:
            raise Failure(f'{pin[0]} could not be downloaded: name an unpacked source with --source')
        with tarfile.open(folder / f'{target.name}.tar.gz') as archive:
            archive.extractall(folder, filter='data')
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--source', type=Path, help="folder of mmcv's source (default: download the pinned one)")
    text = 'folder of objects (default: %(default)s)'
    parser.add_argument('--objects', type=Path, default=ROOT / 'work_dirs/mmcv_operators', help=text)
    parser.add_argument('--all', action='store_true', help='compile every file, not only those in use')
    parser.add_argument('--check', action='store_true', help='FORCE_CUDA=1, compile the CUDA files only, link nothing')
    parser.add_argument('--dry-run', action='store_true', help='print the commands only')
    parser.add_argument('--jobs', type=int, default=len(os.sched_getaffinity(0)), help='default: the cores')
    parser.add_argument('--minutes', type=float, default=1000, help='stop compiling after that time')
    args = parser.parse_args()
    deadline = time.monotonic() + args.minutes * 60
    args.objects.mkdir(parents=True, exist_ok=True)
    cuda = args.check or wants_cuda()
    if cuda:
        import torch

        cuda_home(torch.version.cuda)  # refuses before anything is downloaded
    source = unpacked(args.source, args.objects).resolve()
    build = Build(source, args.objects, toolchain(source, cuda))
    paths = files_of(source, cuda, args.all)
    if args.check:
        paths = [path for path in paths if path.parent.name == 'cuda']
    print(f'{len(paths)} files of {source.name}, {build.tools.key}', flush=True)
    if args.dry_run:
        print('\n'.join(' '.join(build.command_of(path, build.object_of(path))) for path in paths))
        return 0
    with ThreadPoolExecutor(args.jobs) as pool:
        for path, state in zip(paths, pool.map(lambda path: build.compile(path, deadline), paths)):
            note = f': {first_error(build.failed[path])}' if state == 'failed' else ''
            took = f' {build.seconds[path]:5.0f} s' if path in build.seconds else '        '
            print(f'  {state:<8}{took} {path.relative_to(source / SOURCES)}{note}', flush=True)
    late = [path for path in paths if not build.object_of(path).exists() and path not in build.failed]
    print(f'{len(build.failed)} of {len(paths)} files failed' + f', {len(late)} had no time' * bool(late), flush=True)
    if not args.check:
        build.link(files_of(source, cuda, True))
    return 1 if build.failed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f'mmcv_operators: {failure}')
