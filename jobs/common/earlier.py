"""Answers that a larger result takes over from an earlier one: with sample.n=8 the five of sample.n=5 stay as they are.

Seeds are keyed by content, so that they would be the same answers up to rounding, which depends on who shares a batch.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.common.saying import say
from jobs.common.stage import Work
from pipeline.errors import UserError
from pipeline.line.steps import VERSIONS
from pipeline.results.address import FORCED
from pipeline.results.artifacts import Artifact
from pipeline.results.files import MANIFEST, aside, write_aside

NOTE = "earlier.json"  # in the unfinished folder: what was decided when the work began, which a resumed one keeps to
_SAMPLED = ("part-model-", "part-against-")  # begin the names of the parts


@dataclass(frozen=True)
class Earlier:
    """The first `samples` answers to every prompt, taken from the result `name`; none where there is none."""

    samples: int = 0
    name: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)  # rows of each part

    @property
    def fact(self) -> dict[str, Any] | None:
        return {"samples": self.samples, "from": self.name} if self.samples else None


def take_over(work: Work) -> Earlier:
    """Copy the answers of the largest committed result that differs in what is `_aside` alone, once for a work."""
    note = work.folder / NOTE
    if note.exists():
        return Earlier(**json.loads(note.read_text(encoding="utf-8")))
    for part in work.folder.iterdir():
        if part.name.startswith(_SAMPLED):  # of a run that was killed before it had copied all
            part.unlink()
    earlier = _found(work)
    write_aside(note, json.dumps({"samples": earlier.samples, "name": earlier.name, "parts": earlier.parts}))
    kept = {name: work.folder / name for name in earlier.parts}
    work.step.address.keep({**kept, NOTE: note})  # the note last: whoever finds it has what it speaks of
    return earlier


def _found(work: Work) -> Earlier:
    if (work.folder / FORCED).exists():  # all of it is wanted anew
        return Earlier()
    n = work.config.sample.n
    alike = [each for each in _others(work) if each.manifest["identity"]["sampling"]["n"] <= n]
    for artifact in sorted(alike, key=lambda each: -int(each.manifest["identity"]["sampling"]["n"])):
        samples = artifact.manifest["identity"]["sampling"]["n"]
        outputs = artifact.manifest["outputs"]
        parts = {name: entry["rows"] for name, entry in outputs.items() if name.startswith(_SAMPLED)}
        try:
            artifact.verify(opened=list(parts))
        except UserError as error:
            say(f"sample: {artifact.name} is not used: {error.problem}")
            continue
        for name in parts:
            with aside(work.folder / name) as beside:
                shutil.copyfile(artifact.path / name, beside)
        say(f"sample: {samples} answers a prompt are there already, in {artifact.name}")
        return Earlier(samples, artifact.name, parts)
    return Earlier()


def _others(work: Work) -> list[Artifact]:
    """Committed results of this stage's version whose identity differs in what is `_aside` alone."""
    address, wanted = work.step.address, _aside(json.loads(json.dumps(dict(work.step.identity))))
    found = []
    for file in sorted(address.path.parent.glob(f"*/{MANIFEST}")):
        if file.parent in (address.path, address.partial):
            continue
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            same = manifest["version"] == VERSIONS["sample"] and _aside(manifest["identity"]) == wanted
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            found.append(Artifact(file.parent, manifest, address.store))
    return found


def _aside(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without what changes no answer: how many there are, and whether the data's own stand beside them."""
    return identity | {"sampling": identity["sampling"] | {"n": None, "reference_answers": None}}
