"""Fills the folder that a machine with a GPU and without a network needs for ``make gpu-check``.

    python benchmarks/gpu_check/bundle.py                     # gpu_bundle/
    python benchmarks/gpu_check/bundle.py --out DIR --python 3.12 --built work_dirs/gpu_check/out

It holds wheels of the pinned packages that an environment with torch usually lacks, mmcv's source, the files of this
checkout as they are, and with ``--built`` what an earlier call compiled there. On that machine, with Python, a CUDA
build of torch and nvcc:

    sh gpu_bundle/gpu-check                                    # or, in a checkout: make gpu-check
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 50 * 10**6
DEVELOPMENT = '# building mmcv, testing, linting'  # what requirements.txt has from this line on stays here
# an environment with torch, torchvision, matplotlib, OpenCV and pytest has these; of mmcv the source is packed
THERE = (
    *('torch', 'mmcv', 'contourpy', 'cycler', 'cython', 'fonttools', 'kiwisolver', 'markdown-it-py', 'matplotlib'),
    *('mdurl', 'numpy', 'opencv-python-headless', 'packaging', 'pillow', 'pygments', 'pyparsing', 'python-dateutil'),
    *('pyyaml', 'rich', 'scipy', 'six', 'tqdm', 'tzdata'),
)
PLATFORMS = ('manylinux_2_28', 'manylinux_2_27', 'manylinux_2_24', 'manylinux_2_17', 'manylinux2014', 'manylinux1')
STARTER = """#!/bin/sh
# Unpacks the project beside this file's folder and checks it on this machine's GPU; options go to run.py.
set -e
bundle=$(cd "$(dirname "$0")" && pwd)
work=${WORK:-$PWD/work_dirs/gpu_check}
rm -rf "$work/project"
mkdir -p "$work/project"
tar -xzf "$bundle/project.tar.gz" -C "$work/project"
exec python3 "$work/project/benchmarks/gpu_check/run.py" --bundle "$bundle" --work "$work" "$@"
"""


def pins() -> dict[str, str]:
    """Returns the requirements of what runs, by name."""
    running = (ROOT / 'requirements.txt').read_text().partition(DEVELOPMENT)[0].splitlines()
    return {line.partition('==')[0]: line for line in running if '==' in line}


def wheels() -> list[str]:
    """Returns the requirements that machines lack: a new one is packed until ``THERE`` names it."""
    return [line for name, line in pins().items() if name not in THERE]


def download(out: Path, requirements: list[str], *options: str) -> None:
    command = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'download', '--quiet', '--no-deps']
    subprocess.run([*command, '-d', str(out), *options, *requirements], check=True)


def pack_project(path: Path) -> None:
    """Archives the files that git knows, as they are now, and the state that they are in."""

    def git(*arguments: str) -> str:
        return subprocess.run(['git', *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    commit = git('rev-parse', '--short', 'HEAD').strip() + '+' * bool(git('status', '--porcelain'))
    names = git('ls-files', '-z', '--cached', '--others', '--exclude-standard').split('\0')
    with tarfile.open(path, 'w:gz') as archive:
        for name in filter(None, names):
            if (ROOT / name).is_symlink() or (ROOT / name).is_file():
                archive.add(ROOT / name, name, recursive=False)
    path.with_name('commit').write_text(commit + '\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('gpu_bundle'), help='default: %(default)s')
    parser.add_argument('--python', default='3.12', help="that machine's Python (default: %(default)s)")
    parser.add_argument('--built', type=Path, help='folder with the pieces built.tar.gz.00 … of an earlier call')
    args = parser.parse_args()
    shutil.rmtree(args.out / 'wheels', ignore_errors=True)
    (args.out / 'wheels').mkdir(parents=True)
    platforms = [f'--platform={name}_x86_64' for name in PLATFORMS]
    versions = ['--only-binary=:all:', f'--python-version={args.python}', '--implementation=cp', *platforms]
    download(args.out / 'wheels', wheels(), *versions)
    download(args.out, [pins()['mmcv']], '--no-build-isolation', '--no-binary=mmcv')
    pack_project(args.out / 'project.tar.gz')
    (args.out / 'gpu-check').write_text(STARTER)
    for piece in sorted(args.built.glob('built.tar.gz.[0-9][0-9]')) if args.built else ():
        shutil.copy(piece, args.out)
    size = sum(path.stat().st_size for path in args.out.rglob('*') if path.is_file())
    print(f'{args.out}: {size / 1e6:.1f} MB')
    if size > LIMIT:
        sys.exit(f'bundle: {args.out} has {size / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}: leave --built out')


if __name__ == '__main__':
    main()
