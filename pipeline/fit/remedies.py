"""The smallest change of settings that makes a configuration fit: the cheapest for its user first, none taken on trust.

A cost is how much a change is felt, not a time: first what costs some speed, then what trains otherwise (OTHERWISE) or
is much slower. Settings that this configuration does not know are never proposed.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.fit.devices import Device
from pipeline.fit.setup import setup_of
from pipeline.settings.config import RunConfig
from pipeline.settings.training import Lora

Change = Mapping[str, Any]  # section.key and value
OTHERWISE = {"train.lora", "train.optimizer", "model.dtype"}  # with these other numbers are trained
MOST = 4  # changes at once, a stage


@dataclass(frozen=True)
class Remedy:
    """Settings with which all fits on so many devices."""

    changes: Change
    count: int

    @property
    def trains_otherwise(self) -> bool:
        return bool(OTHERWISE & self.changes.keys())

    @property
    def overrides(self) -> list[str]:
        """As a command line takes them."""
        return [f"{key}={_written(value)}" for key, value in self.changes.items()]


def _written(value: Any) -> str:
    return str(value.rank) if isinstance(value, Lora) else json.dumps(value).strip('"')


def search(
    config: RunConfig, wrong: Callable[[RunConfig], Mapping[str, str]], device: Device, count: int, longest: int
) -> Remedy | None:
    """The cheapest changes, stage after stage, until `wrong` has nothing more to say; None where none helps."""
    changes: dict[str, Any] = {}
    for _ in range(4):  # a change for one stage may be felt by another
        left = wrong(changed(config, changes))
        if not left:
            return Remedy(changes, count)
        for stage in left:
            now = changed(config, changes)
            if stage not in wrong(now):
                continue
            options = list(_options(now, stage, device, count, longest))
            for change in _by_cost(options):
                if stage not in wrong(changed(now, change)):
                    changes |= change
                    break
            else:
                return None
    return None


def changed(config: RunConfig, changes: Change) -> RunConfig:
    """The configuration with some settings changed, and what it leaves open left open."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )


def _by_cost(options: Sequence[Sequence[tuple[float, Change]]]) -> Iterator[Change]:
    """One option of each of at most MOST kinds, the cheapest together first."""
    combined = []
    for size in range(1, MOST + 1):
        for kinds in itertools.combinations(options, size):
            for chosen in itertools.product(*kinds):
                together = {key: value for _, change in chosen for key, value in change.items()}
                combined.append((sum(cost for cost, _ in chosen), len(together), together))
    yield from (change for _, _, change in sorted(combined, key=lambda each: each[:2]))


def _options(
    config: RunConfig, stage: str, device: Device, count: int, longest: int
) -> Iterator[list[tuple[float, Change]]]:
    """By kind of change what may be tried for a stage, with its cost."""
    if stage in ("reference", "features", "train"):
        kinds = (_train if stage == "train" else _reference)(config, device, count, longest)
    else:
        kinds = _engines(config, device, count, "judges" if stage in ("judge", "bridge") else "generators")
    for kind in kinds:
        if known := [(cost, change) for cost, change in kind if all(_is_setting(config, key) for key in change)]:
            yield known


def _is_setting(config: RunConfig, key: str) -> bool:
    section, _, name = key.partition(".")
    return name in type(getattr(config, section)).model_fields


Kinds = Iterator[list[tuple[float, Change]]]


def _train(config: RunConfig, device: Device, count: int, longest: int) -> Kinds:
    setup = setup_of(config, device, count)
    yield [(0.5, {"resources.whole_gradients": False})] if setup.whole_gradients is not False else []
    if setup.recompute != 1:
        values = [True] if setup.recompute or not _takes_numbers(config) else [2, True]
        yield [(1.0 + 0.2 * place, {"resources.checkpoint_activations": value}) for place, value in enumerate(values)]
    yield _smaller("resources.micro_batch_tokens", setup.micro_batch_tokens, longest)
    yield _smaller("resources.logits_chunk", setup.logits_chunk, 256)
    if device.is_gpu:
        yield [(2.0, {"resources.train_workers": count})] if setup.workers != count else []
        yield [(2.5, {"resources.shard_within": None})] if setup.shard < setup.workers else []
        if not setup.offload_activations:
            checkpointed = {"resources.checkpoint_activations": True, "resources.offload_activations": True}
            yield [(3.0, checkpointed)]
    elif setup.workers > 1:
        yield [(2.0, {"resources.train_workers": 1})]
    yield from _narrower(config, device)
    if setup.lora is None:
        yield [(10.0, {"train.lora": Lora(rank=16)})]
    if device.is_gpu and not setup.cpu_offload:
        yield [(12.0, {"resources.cpu_offload": True})]
    yield [(13.0, {"train.optimizer": "adamw-8bit"})] if setup.moments > 2 else []


def _reference(config: RunConfig, device: Device, count: int, longest: int) -> Kinds:
    setup = setup_of(config, device, count)
    yield _smaller("resources.score_tokens", setup.score_tokens, longest)
    yield _smaller("resources.logits_chunk", setup.logits_chunk, 256)
    yield from _spread(config, device, count, "scorers")
    yield from _narrower(config, device)


def _engines(config: RunConfig, device: Device, count: int, actors: str) -> Kinds:
    if not device.is_gpu and config.resources.kv_cache_gib > 1:
        yield [(1.0, {"resources.kv_cache_gib": 1.0})]
    yield from _spread(config, device, count, actors)
    yield from _narrower(config, device)


def _smaller(key: str, now: int, least: int) -> list[tuple[float, Change]]:
    """Halves of a budget down to the least that it may be."""
    values = [now // 2**power for power in range(1, 8) if now // 2**power > least] + ([least] if least < now else [])
    return [(1.0 + 0.1 * place, {key: value}) for place, value in enumerate(values, 1)]


def _spread(config: RunConfig, device: Device, count: int, actors: str) -> Kinds:
    """A model over several GPUs, or fewer models on one machine."""
    if device.is_gpu:
        now = max(1, int(config.resources.gpus_per_actor))
        widths = [width for width in (2, 4, 8) if now < width <= count]
        pools = [pool for pool in ("scorers", "generators", "judges") if pool in config.resources.model_fields_set]
        yield [
            (2.0 + 0.1 * place, {"resources.gpus_per_actor": width} | {f"resources.{p}": count // width for p in pools})
            for place, width in enumerate(widths)
        ]
    elif getattr(config.resources, actors) > 1:
        yield [(1.5, {f"resources.{actors}": 1})]


def _narrower(config: RunConfig, device: Device) -> Kinds:
    wide = config.model.dtype != "bfloat16" and device.is_gpu
    yield [(4.0, {"model.dtype": "bfloat16"})] if wide else []


def _takes_numbers(config: RunConfig) -> bool:
    return "int" in str(type(config.resources).model_fields["checkpoint_activations"].annotation)
