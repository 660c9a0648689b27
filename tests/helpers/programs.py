"""Runs Python programs as processes, most of them without the seconds that the imports of the host take.

This file is also the program behind it: a process that has imported the host, but not this package, and for each line on
its standard input forks one that becomes the named program, with its own arguments, environment, folder and output.
"""

import atexit
import json
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from helpers.paths import ROOT


def environment(**env):
    """Returns the variables of the activated environment, with one thread and without warnings, and ``env``."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    return dict(os.environ, PATH=path, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', **env)


def start_program(*command, cwd='.', **env):
    """Runs a Python program in a new process, with ``env`` added to the environment.

    Returns:
        subprocess.CompletedProcess: with the output as text.
    """
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True)


def fork_program(*command, cwd='.', **env):
    """Does what :func:`start_program` does, in a process that has imported the host already."""
    command = [*map(str, command)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f'{folder}/{name}' for name in ('stdout', 'stderr')]
        request = dict(command=command, cwd=str(cwd), env=environment(**env), outputs=outputs)
        server = _server()
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, 'the process that forks programs has ended'
        return subprocess.CompletedProcess(command, int(answer), *(Path(path).read_text() for path in outputs))


def succeed(finished):
    """Returns all output of a finished program, which must have succeeded."""
    assert finished.returncode == 0, f'{finished.args}\n{finished.stdout[-3000:]}{finished.stderr[-3000:]}'
    return finished.stdout + finished.stderr


@cache
def _server():
    env = environment(PYTHONPATH=f'{ROOT}:{ROOT / "tests"}')
    server = subprocess.Popen(
        [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # closes its input, at which it ends
    return server


def _wait_for_a_program(answers):
    """Answers requests until the end of the input; returns in the forked processes alone, the command of each."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.close()
            return _become(**json.loads(line))
        answers.write(f'{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n')
        answers.flush()
    os._exit(0)  # without a report of coverage, which would come after that of the tests


def _become(command, cwd, env, outputs):
    for descriptor, path in ((0, os.devnull), *enumerate(outputs, 1)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
    np.random.seed()  # or all programs would draw the same numbers
    torch.seed()
    return command


if __name__ == '__main__':
    output = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what the imports print is no answer

    import matplotlib.pyplot  # noqa: F401
    import numpy as np
    import torch
    from helpers import fast_host  # noqa: F401
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    runpy.run_path(_wait_for_a_program(output)[0], run_name='__main__')
