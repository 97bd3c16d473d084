"""What a configuration needs, before anything is spent: python -m jobs.fit --config FILE [--gpu h100 --gpus 8]"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.common.saying import tell
from jobs.common.stage import door, reported
from pipeline.errors import UserError
from pipeline.fit.devices import NAMES, Device, device
from pipeline.fit.fit import Fit, fit, gb, look, needs, overfull, refused
from pipeline.fit.lengths import Work
from pipeline.fit.stages import StageNeed
from pipeline.line.steps import Plan, Step
from pipeline.settings.config import RunConfig, load


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.fit", "Say what every stage needs: memory, disk, tokens, time; and if it fits.")
    parser.add_argument("--gpu", metavar="NAME", help=f"a kind of GPU ({', '.join(NAMES)}); without it, this machine")
    parser.add_argument("--gpus", type=int, default=None, metavar="N", help="how many of them (1)")
    parser.add_argument("--json", action="store_true", help="every figure, as JSON; sizes in bytes, times in seconds")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        config = load(options.config, options.overrides)
        on, count = devices(config, options.gpu, options.gpus)
        found = fit(config, look(config), on, count)
        tell(json.dumps(figures(found), indent=2) if options.json else "\n".join(table(found)))
        if found.overfull:
            raise refusal(found)


def devices(config: RunConfig, gpu: str | None, gpus: int | None) -> tuple[Device, int]:
    """What is planned for. Raises UserError where it is not said, or is nothing."""
    if gpu is None and (gpus or config.resources.gpus_per_actor):
        what = f"--gpus {gpus}" if gpus else f"resources.gpus_per_actor={config.resources.gpus_per_actor:g}"
        raise UserError(f"{what}: GPUs of which kind is not said", f"give --gpu NAME, one of {', '.join(NAMES[:-1])}")
    on = device(gpu or "cpu")
    if gpus is not None and (gpus < 1 or not on.is_gpu):
        raise UserError(f"--gpu {gpu} --gpus {gpus} is no number of GPUs", "give --gpus 1 or more, of a kind of GPU")
    if not on.is_gpu and config.resources.gpus_per_actor:
        raise UserError("resources.gpus_per_actor asks for GPUs, and --gpu cpu has none", "set it to 0")
    return on, gpus or 1


def table(found: Fit) -> Iterator[str]:
    """Lines for a terminal."""
    shape, work, on = found.shape, found.work, found.device
    active = f" ({shape.active / 1e9:.2f}B of the layers' at a time)" if shape.active < 0.9 * _layers(found) else ""
    yield f"model  {shape.parameters / 1e9:.3f}B parameters{active}, {shape.layers} layers"
    yield f"data   {work.trained.pairs:,} pairs to train, {work.held_out.pairs:,} held out; {work.how}"
    yield (
        f"on     {found.count} x {on.name}, {gb(on.memory)} each" if on.is_gpu else f"on     {on.name}, {gb(on.memory)}"
    )
    if found.taken:
        yield f"taken  {overrides(found.taken)}"
    yield ""
    yield f"{'stage':10s} {'workers':>7s} {'GPU':>10s} {'host':>10s} {'disk':>10s} {'tokens':>14s} {'time':>10s}"
    for stage in found.stages:
        yield line(stage)
    yield ""
    for stage in found.stages:
        if stage.stage in ("train", "reference"):
            parts = stage.need.gpu or stage.need.host
            shown = (f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size >= 5e6)
            yield f"{stage.stage}, GB a worker: {', '.join(shown)}"
    yield f"all    {total(found.stages, found.work)}"
    if found.note:
        yield f"note   {found.note}"
    if not found.overfull:
        yield "fits"


def _layers(found: Fit) -> int:
    return found.shape.parameters - found.shape.root


def line(stage: StageNeed) -> str:
    gpu, host = stage.need.gpu_bytes, stage.need.host_bytes
    about = "" if stage.exact else "~"
    tokens = "-" if stage.tokens is None else f"{about}{stage.tokens:,}"
    return (
        f"{stage.stage:10s} {stage.workers:7d} {gb(gpu) if gpu else '-':>10s} {gb(host):>10s} {gb(stage.disk):>10s} "
        f"{tokens:>14s} {duration(stage.seconds):>10s}"
    )


def total(stages: Sequence[StageNeed], work: Work) -> str:
    """Memory of the largest worker, disk, tokens and time, in one line."""
    largest = max(stages, key=lambda stage: stage.need.gpu_bytes or stage.need.host_bytes)
    size, where = gb(largest.need.gpu_bytes or largest.need.host_bytes), "a GPU" if largest.need.gpu else "memory"
    tokens = f"{'' if work.exact else '~'}{work.trained.tokens:,} tokens to train"
    tokens += "" if work.exact else f" ({work.how})"
    disk, seconds = sum(stage.disk for stage in stages), sum(stage.seconds for stage in stages)
    return f"{size} of {where} ({largest.stage}), {gb(disk)} of disk, {tokens}, about {duration(seconds)}"


def place(on: Device, count: int) -> str:
    return f"{count} x {on.name}" if on.is_gpu else on.name


def brief(plan: Plan, steps: Sequence[Step]) -> Iterator[str]:
    """What making `steps` needs, in a line or two: for `--dry-run`. Times on GPUs are those of an H100."""
    config = plan.config
    actors = (config.resources.scorers, config.resources.workers.least, config.resources.generators)
    on, count = device("h100" if config.resources.gpus_per_actor else "cpu"), max(actors)
    made = {step.stage for step in steps}
    try:
        known = look(config, plan, seconds=0.3)
        found = [stage for stage in needs(config, known, on, count) if stage.stage in made]
    except UserError as error:
        yield f"needs: cannot be told ({error.problem})"
        return
    yield from (f"likely refused: {why}" for why in refused(config, known.work) if "prepare" in made)
    if found:
        yield f"needs: {total(found, known.work)} on {place(on, count)}; python -m jobs.fit says more"
    if not on.is_gpu:
        yield from (f"does not fit: {stage}: {why}" for stage, why in overfull(config, found, on, count).items())


def duration(seconds: float) -> str:
    """An order of magnitude, of two digits at most."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s"


def refusal(found: Fit) -> UserError:
    """What does not fit, and what would."""
    told = [f"{stage} does not fit: {why}" for stage, why in found.overfull.items()]
    remedies = []
    for remedy in found.remedies:
        where = "" if remedy.count == found.count else f" on {remedy.count} x {found.device.name}"
        what = " (which trains something else)" if remedy.trains_otherwise else ""
        remedies.append(f"{' '.join(remedy.overrides) or 'the same'}{where}{what}")
    if "disk" in found.overfull:
        remedies.append("free some room, or set resources.root to a larger disk")
    nothing = "no setting that is known here is enough: take a smaller model or shorter pairs, or more memory"
    return UserError("\n       ".join(told), "\n       or: ".join(remedies) or nothing)


def overrides(settings: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def figures(found: Fit) -> dict[str, Any]:
    """All of it, for a machine."""
    return {
        "fits": not found.overfull,
        "device": found.device.name,
        "count": found.count,
        "taken": dict(found.taken),
        "model": {"parameters": found.shape.parameters, "layers": found.shape.layers},
        "exact": found.work.exact,
        "disk": found.disk,
        "seconds": round(found.seconds),
        "stages": {
            each.stage: {
                "workers": each.workers,
                "gpu": each.need.gpu,
                "host": each.need.host,
                "disk": each.disk,
                "tokens": each.tokens,
                "exact": each.exact,
                "seconds": round(each.seconds),
            }
            for each in found.stages
        },
        "overfull": dict(found.overfull),
        "note": found.note,
        "remedies": [{"overrides": each.overrides, "count": each.count} for each in found.remedies],
    }


if __name__ == "__main__":
    main(sys.argv[1:])
