"""What dist_train.sh and dist_test.sh call: a tool in several processes, through torchrun."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

FILES = dict(train=('CONFIG',), test=('CONFIG', 'CHECKPOINT'))  # that a tool takes before its options
TOOLS = Path(__file__).resolve().parent


def torchrun_arguments(tool: str, arguments: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """Torchrun's arguments for ``tools/dist_{tool}.sh arguments``.

    Args:
        tool: ``train`` or ``test``.
        arguments: the files of :data:`FILES`, the number of processes on this machine, options of the tool.
        environ: on several machines ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR`` and ``PORT``, as of MMDetection's
            scripts. On one machine a free port is found.

    Raises:
        ValueError: one line for a user.
    """
    names = FILES[tool]
    usage = f'usage: tools/dist_{tool}.sh {" ".join(names)} PROCESSES [options of tools/{tool}.py]'
    if len(arguments) <= len(names):
        raise ValueError(usage)
    files, processes, options = arguments[: len(names)], arguments[len(names)], arguments[len(names) + 1 :]
    for name, file in zip(names, files):
        if not Path(file).is_file():
            raise ValueError(f'missing: {file}, given as {name}; {usage}')
    if not re.fullmatch('[1-9][0-9]*', processes):
        raise ValueError(f'PROCESSES, how many to start on this machine, must be 1 or more, got {processes!r}; {usage}')
    return [
        *_machines(environ),
        f'--nproc-per-node={processes}',
        str(TOOLS / f'{tool}.py'),
        *files,
        '--launcher',
        'pytorch',
        *options,
    ]


def _machines(environ: Mapping[str, str]) -> list[str]:
    if environ.get('NNODES', '1') == '1':
        return ['--standalone', '--local-addr=127.0.0.1']
    given = {'PORT': '29500', **environ}
    for name, what, pattern in (
        ('NNODES', 'how many machines', '[1-9][0-9]*'),
        ('NODE_RANK', 'the number of this machine, from 0 on', '[0-9]+'),
        ('MASTER_ADDR', 'the address of machine 0', '.+'),
        ('PORT', 'a free port of machine 0', '[0-9]+'),
    ):
        if not given.get(name):
            raise ValueError(f'with NNODES={given["NNODES"]} machines set {name} too, {what}')
        if not re.fullmatch(pattern, given[name]):
            raise ValueError(f'{name}, {what}, must be a whole number, got {given[name]!r}')
    return [
        f'--nnodes={given["NNODES"]}',
        f'--node-rank={given["NODE_RANK"]}',
        f'--master-addr={given["MASTER_ADDR"]}',
        f'--master-port={given["PORT"]}',
    ]


def main(tool: str, *arguments: str) -> None:
    """Start it; what goes wrong ends this process with one line."""
    try:
        arguments = torchrun_arguments(tool, arguments, os.environ)
    except ValueError as error:
        sys.exit(str(error))
    import torch.distributed.run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torch.distributed.run.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(f'rank {rank} ended first, with exit code {failure.exitcode}; what it said stands above')
    except getattr(torch.distributed, 'DistError', RuntimeError) as error:  # older torch has none
        sys.exit(f'the machines cannot meet at MASTER_ADDR and PORT: {str(error).splitlines()[0]}')


if __name__ == '__main__':
    main(*sys.argv[1:])
