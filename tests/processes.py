"""Two processes that come from the test's own."""

import multiprocessing


def in_two_processes(function, *args, exitcode=0):
    """Call ``function(rank, *args)`` in each; both are to end with ``exitcode`` within a minute."""
    context = multiprocessing.get_context('fork')
    processes = [context.Process(target=function, args=(rank, *args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == exitcode
