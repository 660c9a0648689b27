"""Checks and times this project on one GPU, and writes one report, whatever fails or runs out of time.

    make gpu-check                                             # in a checkout, with gpu_bundle/ beside it
    sh gpu_bundle/gpu-check --out DIR                          # from the folder that `make gpu-bundle` filled
    python benchmarks/gpu_check/run.py --cpu                   # a rehearsal without a GPU, at small size
    python benchmarks/gpu_check/run.py --parts activations step

Needs Python 3.11, torch and, for mmcv's operators, nvcc and g++; no network. The parts of parts.py run one after
another, each in its own process and with its own limit, until ``--minutes`` are over. ``--out`` then has at most eight
files of at most 16 MiB: report.md, two charts, results.tar.gz (tables, charts, logs) and what was compiled, in pieces
``built.tar.gz.00`` …: put these into the bundle (`bundle.py --built`), and the next call does not compile them again.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import report
from parts import PARTS, Part
from pieces import pack

ROOT = Path(__file__).resolve().parents[2]
FILES = 8  # that come back
GRACE = 3  # seconds that a part has to end when it is stopped
RESERVE = 20  # seconds for packing what comes back
LINK = 15  # seconds of a part with ``{minutes}`` to finish


class Stopped(Exception):
    """The machine wants the process to end."""


class Runner:
    """Runs parts until ``deadline``, a time of ``time.monotonic``; ``results`` has those that had their turn."""

    def __init__(self, places: dict[str, str], results: Path, deadline: float, cpu: bool) -> None:
        self.places, self.folder, self.deadline, self.cpu = places, results, deadline, cpu
        self.results: dict[str, report.Result] = {}
        (results / 'logs').mkdir(parents=True, exist_ok=True)

    def run(self, part: Part) -> report.Result:
        """Runs a part or finds out why not; its output goes to ``logs/NAME.log``."""
        arguments = part.cpu if self.cpu else part.arguments
        failed = [
            name
            for name in part.needs
            if self.results.get(name, report.Result('')).state not in ('', 'passed', 'not run')
        ]
        time_left = self.deadline - time.monotonic()
        if arguments is None:
            result = report.Result('not run', note='needs a GPU')
        elif part.file != '-m' and not (ROOT / part.file).exists():
            result = report.Result('not run', note=f'{part.file} is not in this checkout')
        elif failed:
            result = report.Result('not run', note=f'needs {failed[0]}')
        elif time_left < 2 * GRACE:
            result = report.Result('not run', note='no time left')
        else:
            limit = min(part.limit, time_left)
            texts = self.places | dict(minutes=f'{max(0.0, limit - LINK) / 60:.2f}')
            command = [sys.executable, part.file, *(text.format(**texts) for text in arguments)]
            result = self._process(command, self.log_of(part), limit)
        self.results[part.name] = result
        return result

    def log_of(self, part: Part) -> Path:
        return self.folder / 'logs' / f'{part.name.replace(", ", "_").replace(" ", "_")}.log'

    def _process(self, command: list[str], log: Path, limit: float) -> report.Result:
        start = time.monotonic()
        with log.open('w') as file:
            file.write(f'$ {" ".join(command)}\n')
            file.flush()
            env = environment(Path(self.places['work']))
            # a session of its own: what it starts ends with it
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(process)
        seconds = time.monotonic() - start
        if code is None:
            return report.Result('stopped', seconds, f'after its limit of {limit:.0f} s')
        died = f'killed by {signal.Signals(-code).name}: ' if code < 0 else ''
        return report.Result('failed' if code else 'passed', seconds, died + report.last_line(log) if code else '')


def end_group(process: subprocess.Popen) -> None:
    """Ends a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue


def environment(work: Path) -> dict[str, str]:
    """The environment of a part: this checkout and what was installed for it come first."""
    installed = [path for path in (work / 'site', *sorted(work.glob('mmcv-*[0-9]'))) if path.is_dir()]
    path = os.pathsep.join(map(str, [ROOT, *installed, *filter(None, [os.environ.get('PYTHONPATH')])]))
    ours = dict(
        PYTHONPATH=path, PYTHONUNBUFFERED='1', PYTHONWARNINGS='ignore', PYTHONFAULTHANDLER='1', MPLBACKEND='Agg'
    )
    # what one part compiles serves the others, and comes back to serve the next call
    kept = dict(TRITON_CACHE_DIR=str(work / 'built/triton'), XDG_CACHE_HOME=str(work / 'built/cache'))
    return {**os.environ, **ours, **kept}


def bring_back(results: Path, built: Path, out: Path) -> None:
    """Puts what comes back into ``out``, where the report is: charts, results and, in pieces, what was compiled."""
    charts = sorted(results.glob('*.png'))[:2]
    for chart in charts:
        shutil.copy(chart, out)
    kept = [path for path in sorted(results.rglob('*')) if path.is_file()]
    (archive,) = pack(kept, results, out, 'results.tar.gz', 1) or [None]
    if archive:
        archive.replace(out / 'results.tar.gz')
    compiled = [path for path in built.rglob('*') if path.is_file() and path.suffix != '.part']
    if compiled:
        compiled.sort(key=lambda path: path.stat().st_mtime)  # operators in use first
        pack(compiled, built, out, 'built.tar.gz', FILES - 2 - len(charts))


def check(parts: Iterable[Part], runner: Runner, out: Path, built: Path, title: str) -> bool:
    """Runs the parts and writes the report after each; returns whether none failed."""

    def stop(*_) -> None:
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for part in parts:
            print(f'{part.name} …', flush=True)
            result = runner.run(part)
            print(f'  {result.state} {result.seconds:.0f} s {result.note}', flush=True)
            report.write(out / 'report.md', title, runner.results, runner.folder)
    except (Stopped, KeyboardInterrupt):
        print('stopped from outside', flush=True)
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            report.write(out / 'report.md', title, runner.results, runner.folder)
        finally:
            bring_back(runner.folder, built, out)
    return all(result.state in ('passed', 'not run') for result in runner.results.values())


def main() -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cpu', action='store_true', help='rehearse at small size, without a GPU')
    names = [part.name for part in PARTS]
    parser.add_argument(
        '--parts', nargs='+', choices=names, default=names, metavar='PART', help=f'of {", ".join(names)}'
    )
    parser.add_argument('--minutes', type=float, default=8.8, help='for everything (default: %(default)s)')
    parser.add_argument('--bundle', type=Path, default=ROOT / 'gpu_bundle', help='what make gpu-bundle filled')
    parser.add_argument('--work', type=Path, default=ROOT / 'work_dirs/gpu_check', help='kept between calls')
    parser.add_argument('--out', type=Path, help='what comes back (default: WORK/out)')
    args = parser.parse_args()
    work, out = args.work.resolve(), (args.out or args.work / 'out').resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = work / 'results'
    shutil.rmtree(results, ignore_errors=True)  # never figures of an earlier call in this report
    sources = sorted(args.bundle.glob('mmcv-*.tar.gz'))
    mmcv = work / (sources[-1].name.removesuffix('.tar.gz') if sources else 'mmcv')
    places = dict(bundle=str(args.bundle.resolve()), work=str(work), out=str(results), mmcv=str(mmcv))
    runner = Runner(places, results, start + args.minutes * 60 - RESERVE, args.cpu)
    commit = args.bundle / 'commit'
    title = f'GPU check{" (rehearsal without a GPU)" * args.cpu}'
    title += f', commit {commit.read_text().strip()}' if commit.exists() else ''
    chosen = [part for part in PARTS if part.name in args.parts]
    fine = check(chosen, runner, out, work / 'built', title)
    print(f'{out / "report.md"}: {time.monotonic() - start:.0f} s')
    return 0 if fine else 1


if __name__ == '__main__':
    sys.exit(main())
