"""Write a configuration for a model and data: widemargin init --model MODEL --data DATA [--to FILE] [--gpu h100]

It looks at both, proposes objective, lengths, batch and resources, and says beside each why.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from jobs.common.saying import doing, heard, say, tell
from jobs.common.stage import Parser, reported
from jobs.fit import total
from pipeline.errors import UserError
from pipeline.fit.devices import NAMES, Device, device
from pipeline.fit.fit import fit
from pipeline.fit.proposal import Proposal, propose
from pipeline.line.check import faults
from pipeline.line.plan import make_plan, readable
from pipeline.results.files import write_aside
from pipeline.settings.config import RunConfig, load
from pipeline.settings.file import override

SECTIONS = list(RunConfig.model_fields)  # in the order of the line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m jobs.init", description="Write a commented configuration for a model and data.")
    parser.add_argument(
        "--model", metavar="MODEL", required=True, help="as model.source: a folder, a .gguf file, a name"
    )
    parser.add_argument("--data", metavar="DATA", required=True, help="as data.source: a file, a folder, a name")
    parser.add_argument("--to", metavar="FILE", type=Path, default=Path("widemargin.yaml"), help="(widemargin.yaml)")
    parser.add_argument(
        "--gpu", metavar="NAME", help=f"what it will run on ({', '.join(NAMES)}); without it, this machine"
    )
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="how many of them (1)")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that are known already")
    options = parser.parse_intermixed_args(arguments)
    with reported(), heard("init", 10.0):
        if options.to.exists() and not options.force:
            raise UserError(f"--to {options.to}: there is one already", "give another name, or --force")
        on = device(options.gpu or "cpu")
        if options.gpus < 1:
            raise UserError(f"--gpus {options.gpus} is no number of GPUs", "give --gpus 1 or more")
        if options.gpus > 1 and not on.is_gpu:
            raise UserError(f"--gpus {options.gpus}: of which kind?", f"give --gpu, one of {', '.join(NAMES[:-1])}")
        doing("looking at model and data")
        made = propose(given(options.model, options.data, options.overrides), on, options.gpus)
        write(options.to, written(made, on, options.gpus))
        config = load(str(options.to))  # what was written is what was meant
        tell_more(made, config, on, options.gpus, str(options.to))


def given(model: str, data: str, overrides: Sequence[str]) -> dict[str, Any]:
    path = Path(data)
    name = path.name.partition(".")[0] if path.is_file() else path.name  # a hub's name may have dots of its own
    raw: dict[str, Any] = {"name": readable(name) or "run", "model": {"source": model}, "data": {"source": data}}
    override(raw, overrides)
    return raw


def write(file: Path, text: str) -> None:
    try:
        write_aside(file, text)
    except OSError as error:
        raise UserError(f"--to {file}: cannot be written ({error.strerror})", "give another --to") from None


def written(made: Proposal, on: Device, count: int) -> str:
    """The file: sections in the order of the line, and beside a setting why it is so."""
    where = f"{count} x {on.name}" if on.is_gpu else "a CPU"
    lines = [
        f"# Proposed by widemargin init for {where}; every setting: pipeline/settings/config.py.",
        line("", "name", made.raw["name"], {}).strip(),
    ]
    for section in SECTIONS:
        if isinstance(settings := made.raw.get(section), Mapping) and settings:
            lines += ["", f"{section}:", *(line(section, key, value, made.reasons) for key, value in settings.items())]
    return "\n".join(lines) + "\n"


def line(section: str, key: str, value: Any, reasons: Mapping[str, str]) -> str:
    """A setting on one line, whatever it holds, and its reason."""
    said = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    reason = " ".join(reasons.get(f"{section}.{key}", "").split())
    return f"  {key}: {said.removesuffix('...' + chr(10)).strip()}" + (f"  # {reason}" if reason else "")


def tell_more(made: Proposal, config: RunConfig, on: Device, count: int, file: str) -> None:
    """What it needs, what is still in its way, and what comes next."""
    found = fit(config, made.known, on, count)
    say(f"init: {file}: {total(found.stages, found.work)}")
    for remark in (*made.remarks, *([found.note] if found.note else []), *hindrances(config)):
        say(f"init: {remark}")
    more = f" --gpu {on.name} --gpus {count}" if on.is_gpu else ""
    for command in (f"fit --config {shlex.quote(file)}{more}", f"run --config {shlex.quote(file)} --dry-run"):
        tell(f"next: {Parser.before}{command}")
    tell(f"then: {Parser.before}run --config {shlex.quote(file)}")


def hindrances(config: RunConfig) -> Iterator[str]:
    """What would fail as it is, such as a tokenizer without a chat template."""
    try:
        plan = make_plan(config)
    except UserError as error:
        yield str(error)
        return
    yield from map(str, faults(plan, list(plan.steps.values())))


if __name__ == "__main__":
    main()
