"""Counts the memory of a call exactly, whatever an allocator keeps in reserve."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef


@contextmanager
def _see_saved_tensors(see: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls ``see`` with every tensor that autograd keeps.

    Of nested hooks autograd only calls the innermost, so those that a module sets itself are wrapped as well.
    """
    enter = saved_tensors_hooks.__enter__

    def enter_seen(hooks) -> None:
        pack = hooks.pack_hook

        def pack_seen(tensor: Tensor):
            packed = pack(tensor)
            for kept in packed if isinstance(packed, tuple) else (packed,):
                if isinstance(kept, Tensor):
                    see(kept)
            return packed

        hooks.pack_hook = pack_seen
        enter(hooks)

    saved_tensors_hooks.__enter__ = enter_seen
    try:
        with saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):  # a result kept whole would hold its own graph
            yield
    finally:
        saved_tensors_hooks.__enter__ = enter


def saved_bytes(forward: Callable, parameters: Iterable[Tensor] = (), with_results: bool = False) -> int:
    """Counts the bytes kept for backward after ``forward()``.

    These are the distinct storages of all tensors that autograd keeps, each counted once and whole, without
    ``parameters`` (and buffers). The input counts if it is kept: without this operator it would be freed.
    ``with_results`` adds what ``forward`` returns (a tensor or several): anything that :func:`memory_of` finds held
    beyond that is not kept by autograd.
    """
    storages = {}

    def see(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        storages.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    with _see_saved_tensors(see):
        results = forward()
    if with_results:
        for tensor in (results,) if isinstance(results, Tensor) else results:
            see(tensor)
    for parameter in parameters:
        storages.pop(parameter.untyped_storage()._cdata, None)
    return sum(nbytes for kept, nbytes in storages.values() if not kept.expired())


class Memory(NamedTuple):
    """Bytes beyond those allocated before a call: the peak, and those that its results still hold."""

    peak: int
    held: int


def memory_of(call: Callable, device: torch.device) -> Memory:
    """Counts the memory of one call, whose results are kept until the count is done.

    CPU: all allocations of torch, in the order that its profiler recorded. Memory that a library allocates itself, such
    as oneDNN's scratch, is not counted. CUDA: torch's allocator, which includes cuDNN's workspace.
    """
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        results = call()
        torch.cuda.synchronize(device)
        return Memory(torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        results = call()  # noqa: F841
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=_start):
        now += event.nbytes()
        peak = max(peak, now)
    return Memory(peak, now)


def _start(event) -> int:
    return event.start_ns() if hasattr(event, 'start_ns') else event.start_us()  # before torch 2.4
