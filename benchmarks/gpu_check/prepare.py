"""Installs on a bare machine what ``make gpu-bundle`` packed; what is already there is left alone.

    python benchmarks/gpu_check/prepare.py BUNDLE WORK

WORK gets ``site`` (wheels), ``mmcv-…`` (source) and ``built`` (what an earlier call compiled). Where MMDetection and
mmcv's operators can be imported, as in the project's own environment, nothing is installed.
"""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from pieces import unpack


def install_wheels(bundle: Path, site: Path) -> None:
    if importlib.util.find_spec('mmdet') and not site.exists():
        print('MMDetection is installed: no wheel is used')
        return
    wheels = sorted((bundle / 'wheels').glob('*.whl'))
    if not wheels:
        raise ValueError(f'{bundle} has no wheels: fill it with `make gpu-bundle`')
    done = site / '.complete'
    names = '\n'.join(wheel.name for wheel in wheels)
    if done.exists() and done.read_text() == names:
        return
    shutil.rmtree(site, ignore_errors=True)  # of an interrupted installation
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-index']
    options = ['--no-deps', '--no-compile', '--no-cache-dir', '--target', str(site)]
    subprocess.run([*command, *options, *map(str, wheels)], check=True)
    done.write_text(names)
    print(f'installed {len(wheels)} wheels')


def unpack_mmcv(bundle: Path, work: Path) -> None:
    if importlib.util.find_spec('mmcv') and not list(work.glob('mmcv-*')):
        print('mmcv is installed: it is not built')
        return
    sources = sorted(bundle.glob('mmcv-*.tar.gz'))
    if not sources:
        raise ValueError(f'{bundle} has no source of mmcv: fill it with `make gpu-bundle`')
    target = work / sources[-1].name.removesuffix('.tar.gz')
    if not (target / '.complete').exists():
        with tarfile.open(sources[-1]) as archive:
            archive.extractall(work, filter='data')
        (target / '.complete').touch()
    print(f'unpacked {target.name}')


def main() -> None:
    bundle, work = map(Path, sys.argv[1:])
    work.mkdir(parents=True, exist_ok=True)
    install_wheels(bundle, work / 'site')
    unpack_mmcv(bundle, work)
    names = unpack(bundle, 'built.tar.gz', work / 'built')
    print(f'{len(names)} compiled files of an earlier call')


if __name__ == '__main__':
    try:
        main()
    except ValueError as error:
        sys.exit(f'prepare: {error}')
