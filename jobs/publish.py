"""Bring a model, pairs or a reference to the hub: python -m jobs.publish --config FILE --to OWNER/NAME --licence ID

Private unless --public. With --dry-run it says what would go, and asks the hub nothing. HF_TOKEN, or `hf auth login`,
says who you are; HF_ENDPOINT another hub.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.common.cards import data_card, hub_name, model_card
from jobs.common.hub import Content, Place, publish
from jobs.common.saying import doing, heard, say, tell
from jobs.common.stage import door, planned, reported
from pipeline.errors import UserError
from pipeline.fit.fit import gb
from pipeline.line.steps import Plan
from pipeline.report.card import render
from pipeline.results.artifacts import Artifact

STAGE = {"model": "train", "pairs": "prepare", "reference": "reference"}
CARD, FACTS = "README.md", "widemargin.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = door("python -m jobs.publish", "Bring the trained model, its pairs or its reference to the hub.")
    parser.add_argument("--what", choices=STAGE, default="model", help="model: or adapters, where they are not merged")
    parser.add_argument("--to", metavar="OWNER/NAME", required=True, help="a repository, which is made where it is not")
    parser.add_argument("--licence", "--license", metavar="ID", help="such as apache-2.0, as the hub writes it")
    parser.add_argument("--base", metavar="OWNER/NAME", help="the base model on the hub, where model.source is a path")
    parser.add_argument("--public", action="store_true", help="for all to see; without it for you alone")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and bring nothing")
    options = parser.parse_intermixed_args(arguments)
    with reported():
        for name in filter(None, (options.to, options.base)):
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise UserError(f"{name}: is no name of a repository", "give one such as owner/name")
        if not options.licence and not options.dry_run:
            problem = "under which licence it is published is not said, and there is no default"
            remedy = "--licence ID, such as apache-2.0; what the licences of base model and data allow is yours to know"
            raise UserError(problem, remedy)
        plan = planned("publish", options.config, options.overrides)
        place = Place(options.to, "model" if options.what == "model" else "dataset", options.public)
        made = found(plan, options.what)
        with made.held(), heard("publish", plan.config.resources.log_seconds):
            doing("reading what goes")
            files = content(plan, made, place, options.licence or "(not said yet: --licence)", options.base)
            if options.dry_run:
                say_what(place, files, options.licence)
                return
            tag = f"widemargin-{made.manifest['fingerprint'][:12]}"
            message = f"{plan.config.name}: {made.manifest['name']} {made.manifest['fingerprint'][:12]}"
            url, public = publish(place, files, tag, message)
        say(f"publish: {url} {'is public' if public else 'is private'}, {len(files)} files, {size(files)}")


def found(plan: Plan, what: str) -> Artifact:
    """The committed result. Raises UserError where it is not there, or spoilt."""
    step = plan.steps[STAGE[what]]
    made = step.address.find()
    if made is None:
        problem = f"{step.name}: not there yet, in {plan.config.resources.root}"
        raise UserError(problem, "python -m jobs.run makes what is missing, with the same --config and overrides")
    return made.verify(opened=("model/*", "adapter/*") if what == "model" else ("part-*",))


def content(plan: Plan, made: Artifact, place: Place, licence: str, base: str | None) -> dict[str, Content]:
    """What goes, by its name there: the files, a card, and what is known of how they came to be."""
    if place.kind == "model":
        (folder,) = {name.partition("/")[0] for name in made.manifest["outputs"]} & {"model", "adapter"}
        files: dict[str, Content] = {
            name.removeprefix(f"{folder}/"): made.path / name
            for name in made.manifest["outputs"]
            if name.startswith(f"{folder}/")
        }
        adapter = folder == "adapter"
        card = model_card(plan, made, licence, base, adapter, place.repository)
        if adapter:
            files["adapter_config.json"] = for_others(
                made.path / folder / "adapter_config.json",
                hub_name(plan.config.model_of(plan.config.train.start).source, base),
            )
            if template := plan.config.model.chat_template:  # which the base model has not got
                files["chat_template.jinja"] = Path(template).read_bytes()
    else:
        parts = sorted(name for name in made.manifest["outputs"] if name.startswith("part-"))
        files = {f"data/{name}": made.path / name for name in parts}
        card = data_card(plan, made, licence, place.repository)
    files[CARD] = render(card).encode()
    files[FACTS] = (json.dumps(facts(made.manifest), indent=2) + "\n").encode()
    return files


def for_others(file: Path, base: str | None) -> bytes:
    """An adapter_config.json that names the base model as others find it, and no path of this machine."""
    known = json.loads(file.read_text(encoding="utf-8"))
    known["base_model_name_or_path"] = base
    return (json.dumps(known, indent=2) + "\n").encode()


def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest is for others: identity and figures, and nothing of this machine."""
    names = ("name", "stage", "version", "fingerprint", "identity", "inputs", "rows", "tokens", "metrics", "ledger")
    outputs = {name: {"bytes": one["bytes"], "sha256": one["sha256"]} for name, one in manifest["outputs"].items()}
    return {**{name: manifest[name] for name in names if name in manifest}, "outputs": outputs}


def say_what(place: Place, files: Mapping[str, Content], licence: str | None) -> None:
    visible = "public" if place.public else "private"
    tell(f"would go to {place.shown}, {visible}: {len(files)} files, {size(files)}")
    for name, each in files.items():
        tell(f"  {gb(one_size(each)):>9s}  {name}")
    if not licence:
        tell("its licence is not said yet: --licence ID")
    card = files[CARD]
    assert isinstance(card, bytes)
    tell(f"{CARD}:\n{card.decode()}")


def one_size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def size(files: Mapping[str, Content]) -> str:
    return gb(sum(map(one_size, files.values())))


if __name__ == "__main__":
    main()
