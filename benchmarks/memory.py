"""Counts the memory of a call exactly, whatever an allocator keeps in reserve."""

import gc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


def saved_bytes(forward: Callable, parameters: Iterable[Tensor] = (), with_results: bool = False) -> int:
    """Counts the bytes kept for backward after ``forward()``.

    These are the distinct storages of all tensors that autograd keeps, each counted once and whole, without
    ``parameters`` (and buffers). The input counts if it is kept: without this operator it would be freed.
    ``with_results`` adds what ``forward`` returns (a tensor or several): anything that :func:`memory_of` finds held
    beyond that is not kept by autograd.
    """
    storages, enter = {}, saved_tensors_hooks.__enter__

    def see(*objects) -> None:
        for tensor in objects:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                storages.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    def enter_seen(hooks: saved_tensors_hooks) -> None:
        pack = hooks.pack_hook

        def pack_seen(tensor: Tensor):
            packed = pack(tensor)
            see(*packed if isinstance(packed, tuple) else (packed,))
            return packed

        hooks.pack_hook = pack_seen
        enter(hooks)

    # of nested hooks autograd only calls the innermost, so those that a module sets itself are seen as well
    with (
        mock.patch.object(saved_tensors_hooks, '__enter__', enter_seen),
        saved_tensors_hooks(Tensor.detach, lambda tensor: tensor),  # a result kept whole would hold its own graph
    ):
        results = forward()
    if with_results:
        see(*(results,) if isinstance(results, Tensor) else results)
    for parameter in parameters:
        storages.pop(parameter.untyped_storage()._cdata, None)
    return sum(nbytes for kept, nbytes in storages.values() if not kept.expired())


class Memory(NamedTuple):
    """Bytes beyond those allocated before a call: the peak, and those that its results still hold."""

    peak: int
    held: int


def memory_of(call: Callable, device: str | torch.device) -> Memory:
    """Counts the memory of one call, whose results are kept until the count is done.

    CPU: all allocations of torch, in the order that its profiler recorded. Memory that a library allocates itself, such
    as oneDNN's scratch, is not counted. CUDA: torch's allocator, which includes cuDNN's workspace.
    """
    gc.collect()
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call()
        torch.cuda.synchronize()
        return Memory(torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results = call()  # noqa: F841
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(
        events, key=lambda event: (getattr(event, 'start_ns', None) or event.start_us)()
    ):  # torch < 2.4
        now += event.nbytes()
        peak = max(peak, now)
    return Memory(peak, now)


def process_peak(device: str = 'cpu') -> float:
    """Returns the peak memory of this process in MiB: resident, on a GPU torch's allocations."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path('/proc/self/status').read_text()  # getrusage would count the parent process too
    return int(status.split('VmHWM:')[1].split()[0]) / 1024
