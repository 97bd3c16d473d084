"""How a policy lies on the workers: FSDP2 shards weights, gradients and optimiser state, a decoder layer at a time.

Over all workers; or, with `resources.shard_within`, over groups of so many, each of which holds the whole (HSDP): what
goes between groups is then the sum of gradients alone. Ray Train numbers the workers node by node, so that groups of a
node's size gather weights within it.
"""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.settings.resources import WHOLE_GRADIENTS, Resources

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # as jobs/train.py: what lies on the host is summed there


def shard(policy: torch.nn.Module, device: torch.device, dtype: torch.dtype, resources: Resources, world: int) -> int:
    """Shard a policy that computes in `dtype`; returns of how many units, all gathered at once but for the layers.

    Weights that are trained in bfloat16 become float32: what is computed with is their rounding. Frozen ones stay.
    """
    if not dist.is_initialized():  # one process, outside Ray Train
        dist.init_process_group(BACKENDS[device.type], store=dist.HashStore(), rank=0, world_size=1)
    options: dict[str, Any] = {"mesh": mesh(device, world, resources)}
    if resources.cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy(pin_memory=device.type == "cuda")
    if dtype is torch.bfloat16:
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        options["mp_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
    # transformers' name for a layer of a decoder
    layers = [module for module in policy.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in layers:
        fully_shard(module, **options)
    fully_shard(policy, **options)
    return len(layers) + 1


def mesh(device: torch.device, world: int, resources: Resources) -> DeviceMesh:
    """All workers, which is torch.distributed's first group; or groups by groups' workers, as patient as that."""
    within = resources.shard_within or world
    if within == world:
        return init_device_mesh(device.type, (world,))
    ranks = torch.arange(world).view(-1, within)
    patience = timedelta(seconds=resources.collective_timeout_seconds)
    groups = [dist.new_subgroups_by_enumeration(each.tolist(), timeout=patience)[0] for each in (ranks.T, ranks)]
    return DeviceMesh.from_group(groups, device.type, ranks, mesh_dim_names=("replicate", "shard"))


def whole_gradients_fit(policy: torch.nn.Module, device: torch.device, resources: Resources) -> bool:
    """Whether a worker is to keep gradients of all that is trained over a step's micro-batches, in float32."""
    if resources.whole_gradients is not None:
        return resources.whole_gradients
    if device.type != "cuda":
        return True
    whole = 4 * sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    return whole <= WHOLE_GRADIENTS * torch.cuda.get_device_properties(device).total_memory


def unshard(policy: torch.nn.Module) -> None:
    """Gather what the root holds, where it is not."""
    if isinstance(policy, FSDPModule):
        policy.unshard()


def reshard(policy: torch.nn.Module) -> None:
    """Let go of all that a forward gathered; the root keeps its own until a backward."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
