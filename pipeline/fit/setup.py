"""How a configuration would run on the devices that are told of: all that memory depends on, as values."""

from dataclasses import dataclass
from typing import Any

from pipeline.fit.devices import PER_NODE, Device
from pipeline.settings.config import Lora, Resources, RunConfig

_BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class Setup:
    """Where a setting is null, what it comes to on these devices."""

    device: Device
    count: int  # of GPUs; 1 for a CPU
    compute: int  # bytes of a number that is computed with
    workers: int
    shard: int  # workers that share one copy of the weights
    scorers: int
    engines: int
    judges: int
    gpus_per_actor: int  # of a scorer or an engine
    micro_batch_tokens: int
    score_tokens: int
    logits_chunk: int
    recompute: int  # every so manieth layer is computed again; 0: none
    offload_activations: bool
    whole_gradients: bool  # summed over a step's micro-batches before they are shared out
    cpu_offload: bool
    moments: int  # bytes of the optimiser's state a parameter
    lora: Lora | None

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 is in play (pipeline/compute/policy.py)."""
        return self.workers > 1 or self.compute == 2 or self.cpu_offload

    @property
    def master(self) -> int:
        """Bytes of a weight that is trained."""
        return max(4, self.compute)


def setup_of(config: RunConfig, device: Device, count: int) -> Setup:
    """The setup of a configuration on `count` such devices; a resource that it leaves open takes what there is."""
    resources, train = config.resources, config.train
    gpus = max(1, int(resources.gpus_per_actor))
    workers, shard = _number(resources, "train_workers", count), getattr(resources, "shard_within", None)
    recompute = resources.checkpoint_activations
    micro, score, chunk = (16384, 32768, 2048) if device.is_gpu else (1024, 4096, 1024)
    return Setup(
        device=device,
        count=count,
        compute=_BYTES[config.model.dtype],
        workers=workers,
        shard=min(workers, shard or workers),
        scorers=_number(resources, "scorers", count // gpus),
        engines=_number(resources, "generators", count // gpus),
        judges=_number(resources, "judges", count // gpus),
        gpus_per_actor=gpus,
        micro_batch_tokens=resources.micro_batch_tokens or micro,
        score_tokens=resources.score_tokens or score,
        logits_chunk=resources.logits_chunk or chunk,
        recompute=int(recompute or 0),
        offload_activations=bool(getattr(resources, "offload_activations", False)),
        whole_gradients=bool(getattr(resources, "whole_gradients", False)),
        cpu_offload=bool(getattr(resources, "cpu_offload", False)),
        moments=2 if getattr(train, "optimizer", "adamw") == "adamw-8bit" else 8,
        lora=train.lora,
    )


def _number(resources: Resources, name: str, most: int) -> int:
    """So many actors as the configuration says, or, where it does not, one a device."""
    return int(getattr(resources, name)) if name in resources.model_fields_set else max(1, most)


def taken(config: RunConfig, setup: Setup) -> dict[str, Any]:
    """What must be given to run so: settings of GPUs and actors that the configuration leaves open."""
    if not setup.device.is_gpu:
        return {}
    wanted = {
        "gpus_per_actor": setup.gpus_per_actor,
        "scorers": setup.scorers,
        "train_workers": setup.workers,
        "generators": setup.engines,
    }
    if config.judge.local:
        wanted["judges"] = setup.judges
    return {f"resources.{name}": value for name, value in wanted.items() if getattr(config.resources, name) != value}


def nodes(setup: Setup) -> int:
    return -(-setup.count // PER_NODE) if setup.device.is_gpu else 1
