"""What jobs.list and jobs.prune share: which results there are, and which of them a configuration needs."""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.stage import Parser
from pipeline.errors import UserError
from pipeline.fit.fit import gb
from pipeline.line.needed import needs, place_of
from pipeline.results.inventory import Result, inventory, made_from, needed

if TYPE_CHECKING:
    from pipeline.results.store import Store


def parser(command: str, description: str, required: bool) -> argparse.ArgumentParser:
    """Of a door that takes several configurations."""
    found = Parser(prog=command, description=description)
    help = "a YAML file of a run or of a study, or a recipe by name; may be repeated"
    found.add_argument("--config", metavar="FILE", action="append", default=[], required=required, help=help)
    found.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="change single settings, of all the configurations"
    )
    return found


@dataclass(frozen=True)
class House:
    """The results of one place, and the first digits of the fingerprints that each configuration needs."""

    root: Path
    store: "Store | None"
    results: Sequence[Result]
    needs: Mapping[str, set[str]]

    def users(self, result: Result) -> list[str]:
        """The configurations that need a result. What was replaced nobody does: its successor is there."""
        if result.kind == "replaced":
            return []
        return [name for name, wanted in self.needs.items() if result.fingerprint in wanted]

    def one(self, given: str) -> Result:
        """A committed result by its folder, the end of its address or the first digits of its fingerprint."""
        wanted = given.rstrip("/")
        found = [
            each
            for each in self.results
            if each.kind == "committed"
            and (f"/{wanted}".endswith(f"/{each.address}") or each.name == wanted or _begins(each, wanted))
        ]
        if len(found) != 1:
            what = f"is {len(found)} results" if found else "is no committed result"
            raise UserError(f"--keep {given}: {what} of {self.place}", "give a folder as jobs.list names it")
        return found[0]

    @property
    def place(self) -> str:
        return self.store.address("").rstrip("/") if self.store else str(self.root)


def _begins(result: Result, digits: str) -> bool:
    return len(digits) >= 6 and result.manifest.get("fingerprint", "").startswith(digits)


def house(configs: Sequence[str], overrides: Sequence[str], keep: Sequence[str] = ()) -> House:
    """Raises UserError where a configuration cannot be planned, or results of it are in several places."""
    if configs:
        asked = needs(configs, overrides)
        root, store = asked[0].root, asked[0].store
    else:
        asked, (root, store) = [], place_of(overrides)
    results = inventory(root, store)
    found = House(root, store, results, {each.name: needed(results, each.fingerprints) for each in asked})
    kept = {f"--keep {given}": made_from(results, found.one(given)) for given in keep}
    return House(root, store, results, {**found.needs, **kept})


def total(results: Sequence[Result]) -> str:
    count = len(results)
    return f"{count} result{'s' * (count != 1)}, {gb(sum(each.size for each in results))}"


def age(result: Result) -> str:
    """How long ago it was last written to, in its largest unit."""
    seconds = max(0.0, time.time() - result.written)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def origin(result: Result, known: Mapping[str, Result]) -> str:
    """What a result was made from: other results by stage and first digits, or else a model and data."""
    inputs = [
        f"{known[each].stage} {each[:6]}" if each in known else f"{each[:6]} (gone)" for each in result.inputs.values()
    ]
    if inputs:
        shown = list(dict.fromkeys(inputs))
        return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
    config: Mapping[str, Any] = result.manifest.get("config", {})
    if result.kind == "unfinished":
        return "unfinished"
    if result.kind == "curves":
        return f"train {result.fingerprint[:6]}" + ("" if result.fingerprint in known else " (gone)")
    if not config:  # a .gguf model in Hugging Face format
        return f"a model {result.manifest.get('identity', {}).get('model', '')[:6]}"
    read = {"prepare": config["data"], "sample": config["sample"]["prompts"]}.get(result.stage)
    return ", ".join([config["model"]["source"], *([read["source"]] if read else [])])
