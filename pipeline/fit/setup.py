"""How a configuration would run on the devices that are told of: all that memory depends on, as values."""

from dataclasses import dataclass
from typing import Any

from pipeline.fit.devices import PER_NODE, Device
from pipeline.settings.config import RunConfig
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora

_BYTES = {"float32": 4, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class Setup:
    """Where a setting is null, what it comes to on these devices."""

    device: Device
    count: int  # of GPUs; 1 for a CPU
    compute: int  # bytes of a number that is computed with
    workers: int
    sharded: bool  # whether FSDP2 is in play
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
    whole_gradients: bool | None  # summed over a step's micro-batches before they are shared out; None: where they fit
    cpu_offload: bool
    moments: int  # bytes of the optimiser's state a parameter
    lora: Lora | None

    @property
    def master(self) -> int:
        """Bytes of a weight that is trained."""
        return max(4, self.compute)


def setup_of(config: RunConfig, device: Device, count: int) -> Setup:
    """The setup of a configuration on `count` such devices; a resource that it leaves open takes what there is."""
    resources, train = config.resources, config.train
    gpus = max(1, int(resources.gpus_per_actor))
    workers, shard = _number(resources, "train_workers", count), resources.shard_within
    recompute = resources.checkpoint_activations
    budgets = resources.budgets("cuda" if device.is_gpu else "cpu")
    return Setup(
        device=device,
        count=count,
        compute=_BYTES[config.model.dtype],
        workers=workers,
        sharded=resources.shards(config.model.dtype, workers),
        shard=min(workers, shard or workers),
        scorers=_number(resources, "scorers", count // gpus),
        engines=_number(resources, "generators", count // gpus),
        judges=_number(resources, "judges", count // gpus),
        gpus_per_actor=gpus,
        **budgets._asdict(),
        recompute=int(recompute or 0),
        offload_activations=resources.offload_activations,
        whole_gradients=resources.whole_gradients,
        cpu_offload=resources.cpu_offload,
        moments=2 if train.optimizer == "adamw-8bit" else 8,
        lora=train.lora,
    )


def _number(resources: Resources, name: str, most: int) -> int:
    """So many actors as the configuration says, or, where it does not, one a device."""
    return _least(resources, name) if name in resources.model_fields_set else max(1, most)


def _least(resources: Resources, name: str) -> int:
    """Of actors of which there may be more or less, the least: each then needs most."""
    return resources.workers.least if name == "train_workers" else int(getattr(resources, name))


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
    if config.judge.local or config.bridge.local:
        wanted["judges"] = setup.judges
    return {f"resources.{name}": value for name, value in wanted.items() if _least(config.resources, name) != value}


def nodes(setup: Setup) -> int:
    return -(-setup.count // PER_NODE) if setup.device.is_gpu else 1
