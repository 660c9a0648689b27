"""Models whose parameters are not in their place: replicas of DataParallel, which needs GPUs to make them, and FSDP."""

import torch
from torch.distributed.fsdp import FullyShardedDataParallel


def replica_of(module):
    """As torch.nn.parallel.replicate: plain tensors, which are not leaves, take the place of the parameters."""
    replicas = {part: part._replicate_for_data_parallel() for part in module.modules()}
    for part, replica in replicas.items():
        for name, child in part._modules.items():
            replica._modules[name] = replicas.get(child)
        for name, parameter in part._parameters.items():
            if parameter is None:
                replica._parameters[name] = None
            else:
                setattr(replica, name, parameter.clone())
    return replicas[module]


def gradients_under_fsdp(module, loss_of, use_orig_params, folder):
    """Returns all gradients in one tensor, computed by one process."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=0, world_size=1)
    try:
        device = torch.device('cpu')
        wrapped = FullyShardedDataParallel(module, use_orig_params=use_orig_params, device_id=device)
        loss_of(wrapped).backward()
        return torch.cat([p.grad.flatten() for p in wrapped.parameters()])
    finally:
        torch.distributed.destroy_process_group()
