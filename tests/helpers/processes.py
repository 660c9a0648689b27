"""Processes: two started from the test's own, or a command in a copy of the repository."""

import multiprocessing
import os
import subprocess

from helpers.programs import environment, succeed


def in_two_processes(function, *args, exitcode=0, start='fork'):
    """Calls ``function(rank, *args)`` in each; both must end with ``exitcode`` within a minute.

    ``start='spawn'`` for one that trains: autograd refuses to work in a fork of a process in which it has threads.
    """
    context = multiprocessing.get_context(start)
    processes = [context.Process(target=function, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == exitcode


def in_a_copy(folder, command):
    """Runs a line of bash as in the activated environment, with the copy's own package; returns its output."""
    env = environment(PYTHONPATH=os.pathsep.join(filter(None, (str(folder), os.environ.get('PYTHONPATH')))))
    return succeed(subprocess.run(['bash', '-ec', command], cwd=folder, env=env, capture_output=True, text=True))
