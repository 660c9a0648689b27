"""Kills a training run repeatedly at random moments and compares it with an uninterrupted one.

    python tests/helpers/soak.py FOLDER --kills 20 --seed 0

A checkpoint every step makes saving a large share of the time, and every other kill waits for a half-written file.
Data loading workers, momentum averages of the weights, gradient clipping and two kept checkpoints are on. Every run is
a process of its own, killed by SIGKILL with its workers. Prints what the kills interrupted and what differs at the end.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torch._dynamo
from helpers.tiny_runs import saved_at, tinier
from mmengine.hooks import Hook
from mmengine.runner import Runner

import apa_mmdet  # noqa: F401  before the processes are forked, which makes a start cheap
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis

EPOCHS = 7
OPTIONS = {
    'train_cfg.max_epochs': EPOCHS,
    'train_dataloader.num_workers': 2,
    'train_dataloader.persistent_workers': True,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': 2,
    'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
}
TIMES = 'time', 'data_time', 'memory', 'eta'


class Started(Hook):
    """Writes a file when training starts, so that kills do not always hit the start, which changes nothing."""

    priority = 'LOWEST'  # after the unfinished files of the previous run are removed

    def __init__(self, file):
        self.file = file

    def before_train(self, runner):
        self.file.touch()


def start_run(data, work_dir, started, resume):
    """Starts a process that trains; returns its id, which is also that of its group."""
    started.unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        log = os.open(work_dir.with_suffix('.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        runner = Runner.from_cfg(tinier(data, work_dir, resume=resume, **OPTIONS))
        runner.register_hook(Started(started))
        runner.train()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def finished(child):
    """Whether the process has ended by itself.

    Raises:
        RuntimeError: if it failed.
    """
    number, status = os.waitpid(child, os.WNOHANG)
    if number and status:
        raise RuntimeError(f'a run failed with status {status}; its log is beside its folder')
    return bool(number)


def kill_at(child, work_dir, started, checkpoints, wait, at_saving):
    """Kills the process some time after it wrote some checkpoints, or at the next half-written file.

    Returns what was interrupted and the last checkpoint, or None if the process ended before.
    """
    last = work_dir / 'last_checkpoint'
    seen, end = None, None
    while end is None or time.monotonic() < end or (at_saving and not any(work_dir.glob('*.unfinished'))):
        if finished(child):
            return None
        if started.exists() and end is None:
            now = last.read_text() if last.exists() else ''
            checkpoints -= seen not in (None, now)
            seen = now
            if checkpoints <= 0:
                end = time.monotonic() + wait
        time.sleep(0.0005)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    what = 'while a file was written' if any(work_dir.glob('*.unfinished')) else 'at another time'
    return what, Path(last.read_text()).stem if last.exists() else 'nothing'


def logged(work_dir):
    """Entries of the log for each step, of losses or not, by every run that reached it."""
    steps = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the run ended within the line
                continue
            of_losses = 'loss' in entry  # or of activations
            steps.setdefault((entry['step'], of_losses), []).append({k: v for k, v in entry.items() if k not in TIMES})
    return steps


def differences(one, other, path=''):
    """Names of the tensors and values that are not the same in two checkpoints, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [d for key in {**one, **other} for d in differences(one.get(key), other.get(key), f'{path}.{key}')]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other)) for d in differences(*pair, f'{path}.{i}')]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
    else:
        same = one == other or (one != one and other != other)  # a norm of gradients that float16 does not hold
    return [] if same else [path]


def compare(reference, resumed):
    """Differences between two work dirs, in the last checkpoints and in the logs."""
    ends = [saved_at((folder / 'last_checkpoint').read_text()) for folder in (reference, resumed)]
    ends = [
        {key: end[key] for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers') if key in end}
        | {'iter': end['meta']['iter'], 'epoch': end['meta']['epoch']}
        for end in ends
    ]
    found = differences(*ends)
    expected = {step: entries[0] for step, entries in logged(reference).items()}
    seen = logged(resumed)
    found += [f'step {step[0]} is not logged' for step in expected if step not in seen]
    return found + [
        f'log of step {step[0]}: {key}'
        for step, entries in seen.items()
        for entry in entries
        for key in differences(entry, expected.get(step, {}))
    ]


def soak(folder, kills, seed):
    """Returns the number of steps, what the kills interrupted, how far the runs came, and what differs."""
    draw, started = random.Random(seed), folder / 'started'
    make_tiny_lvis(folder / 'data', train=12, val=1, size=(96, 96), seed=0, progress=False)
    for name in ('reference', 'killed'):
        (folder / name).mkdir()
    began = time.monotonic()
    child = start_run(folder / 'data', folder / 'reference', started, resume=False)
    while not finished(child):
        time.sleep(0.01)
    steps = sum(of_losses for _, of_losses in logged(folder / 'reference'))
    a_step = (time.monotonic() - began) / steps
    interrupted, reached = Counter(), []
    for number in range(kills):
        child = start_run(folder / 'data', folder / 'killed', started, resume=True)
        moment = draw.randrange(3), draw.uniform(0, a_step), number % 2
        killed = kill_at(child, folder / 'killed', started, *moment)
        if killed is None:
            break
        interrupted[killed[0]] += 1
        reached.append(killed[1])
    else:
        child = start_run(folder / 'data', folder / 'killed', started, resume=True)
        while not finished(child):
            time.sleep(0.01)
    return steps, interrupted, reached, compare(folder / 'reference', folder / 'killed')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='an empty or new folder')
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    steps, interrupted, reached, differing = soak(arguments.folder, arguments.kills, arguments.seed)
    print(
        f'{steps} steps, killed {interrupted.total()} times: '
        + ', '.join(f'{n} {what}' for what, n in interrupted.items())
    )
    print('after each kill, the last checkpoint: ' + ' '.join(reached))
    print('\n'.join(['differs:', *differing]) if differing else 'no difference')
    sys.exit(bool(differing) or interrupted.total() < arguments.kills)
