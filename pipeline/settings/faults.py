"""A pydantic report, in the words of our errors: which key, which value, why, and what to write instead."""

import difflib
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import UserError

# What to write, by the kind of value that pydantic wanted: the part of its error type before the underscore.
_WANTED = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "no": "a number, or null",
    "bool": "true or false",
    "string": "text (in quotes where YAML would read a number, a date or null)",
    "tuple": "a list",
    "list": "a list",
    "dict": "names with a value each",
}

NO_NUMBER = "no_number"  # the type of a fault that a section finds of its setting `name`, before pydantic looks

# What pydantic puts into the place of a fault beside keys: that it is a key, or which of several kinds was tried.
_TAGS = ("[key]", "str", "tuple[str, ...]")

# What other trainers call our settings.
ALIASES = {
    "lr": "train.learning_rate",
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "scheduler"), "train.lr_schedule"),
    **dict.fromkeys(("warmup", "warmup_ratio"), "train.warmup_fraction"),
    **dict.fromkeys(
        ("bs", "batch", "per_device_train_batch_size", "train_batch_size", "gradient_accumulation_steps"),
        "train.batch_size",
    ),
    **dict.fromkeys(("epoch", "num_epochs", "num_train_epochs"), "schedule.epochs"),
    **dict.fromkeys(("grad_clip", "clip_grad_norm", "gradient_clipping"), "train.max_grad_norm"),
    **dict.fromkeys(("betas", "adam_beta1", "adam_beta2"), "train.adam_betas"),
    **dict.fromkeys(("r", "lora_r", "lora_rank"), "train.lora.rank"),
    "lora_alpha": "train.lora.alpha",
    "lora_dropout": "train.lora.dropout",
    **dict.fromkeys(("target_modules", "lora_target_modules", "modules"), "train.lora.layers"),
    **dict.fromkeys(("use_peft", "peft", "adapter"), "train.lora"),
    **dict.fromkeys(("loss", "loss_type"), "objective.name"),
    "beta": "objective.beta",
    "label_smoothing": "objective.label_smoothing",
    **dict.fromkeys(("gamma", "simpo_gamma"), "objective.gamma0"),
    **dict.fromkeys(("model_name_or_path", "model_name", "base_model"), "model.source"),
    **dict.fromkeys(("torch_dtype", "bf16", "fp16", "precision"), "model.dtype"),
    **dict.fromkeys(("dataset", "dataset_name", "datasets", "train_file", "data_path"), "data.source"),
    "max_prompt_length": "data.max_prompt_tokens",
    "max_completion_length": "data.max_completion_tokens",
    **dict.fromkeys(
        ("max_length", "max_seq_length", "cutoff_len"), "data.max_prompt_tokens and data.max_completion_tokens"
    ),
    **dict.fromkeys(("output_dir", "out"), "resources.root"),
    **dict.fromkeys(("save_steps", "checkpointing_steps"), "resources.checkpoint_steps"),
    **dict.fromkeys(("logging_steps", "log_every"), "resources.log_seconds"),
    "gradient_checkpointing": "resources.checkpoint_activations",
    **dict.fromkeys(("gpus", "num_gpus", "n_gpus"), "resources.gpus_per_actor"),
}


def own_section(
    raw: dict[str, Any],
    path: str,
    file: type[BaseModel],
    example: str,
    written: Callable[[Any], Any] = lambda section: section,
) -> Any:
    """The section of another door than jobs.run, the one field of `file`, taken out of what a file says.

    `written` puts it as the schema has it. Raises UserError where there is none, or what is in it is at fault.
    """
    (name,) = file.model_fields
    if name not in raw:
        remedy = f"give a file such as {example}; jobs.run takes this one"
        raise UserError(f"--config {path}: has no section {name}", remedy)
    try:
        return getattr(file.model_validate({name: written(raw.pop(name))}), name)
    except ValidationError as error:
        raise explain(error, file) from None


def explain(error: ValidationError, schema: type[BaseModel]) -> UserError:
    """The first fault of a report, and how many more there are."""
    faults, more = error.errors(), error.error_count() - 1
    # A name that is none is why another is missing; and of the kinds that were tried for an empty list, one was right.
    fault = next((each for each in faults if each["type"] in ("extra_forbidden", "too_short")), faults[0])
    location, kind = tuple(part for part in fault["loc"] if part not in _TAGS), fault["type"]
    if kind == NO_NUMBER:
        location, fault = (*location, fault["ctx"]["name"]), fault | {"input": fault["ctx"]["value"]}
    where = ".".join(map(str, location)) or "the configuration"
    tail = f" (and {more} more)" if more else ""
    if kind in ("too_short", "too_long") or (kind == "missing" and isinstance(location[-1], int)):
        location = location[:-1] if kind == "missing" else location
        few = ("too few values", "more") if fault["input"] else ("nothing", "some")
        number, wanted = ("too many values", "fewer") if kind == "too_long" else few
        where = ".".join(map(str, location))
        problem = f"{where}={shown(fault['input'])} holds {number}"
        return UserError(problem, f"{where}: give {wanted}{_such(schema, location)}")
    if kind == "missing":
        return UserError(f"{where} is missing{tail}", f"set it in the file, or give {where}=VALUE")
    if kind in ("extra_forbidden", "invalid_key"):
        return UserError(f"{where} is not a key of the configuration{tail}", _nearest(schema, location))
    if kind in ("model_type", "model_attributes_type"):
        keys = ", ".join(_keys(schema, location))
        return UserError(f"{where}={shown(fault['input'])} is a section, not a value{tail}", f"set its keys: {keys}")
    problem = f"{where} has no value" if fault["input"] is None else f"{where}={shown(fault['input'])}: {fault['msg']}"
    such = _such(schema, location) if kind in ("tuple_type", "list_type", "dict_type") else ""
    return UserError(f"{problem}{tail}", f"{where}: {_remedy(kind, fault)}{such}")


def _such(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """An example of what a setting holds: the first of the field's own, or its default."""
    *sections, name = location
    field = _at(schema, tuple(sections)).model_fields.get(str(name))
    example = field and next(iter(field.examples or [field.default]))
    return f", such as {yaml.safe_dump(example, default_flow_style=True, width=200).strip()}" if example else ""


def shown(value: Any) -> str:
    """A value as it can be said: whole numbers may have more digits than Python writes out."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def refuse_odd_values(raw: Any) -> None:
    """Raise UserError for what no setting means, wherever it stands: texts that no file can hold, and giant numbers."""
    seen: set[int] = set()  # what YAML's aliases name many times, or in a circle, is looked at once
    open_: list[tuple[str, Any]] = [("the configuration", raw)]
    while open_:
        where, value = open_.pop()
        if isinstance(value, str) and ("\0" in value or not _encodes(value)):
            problem = f"{where}={shown(value)} holds a character that no file can hold"
            raise UserError(problem, "leave it out: it is a null character, or half of one that takes two")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{where}={shown(value)} is beyond what 64 bits hold", "give a smaller number")
        if id(value) in seen or not isinstance(value, dict | list | tuple | set):
            continue
        seen.add(id(value))
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for name, inner in inside:
            path = f"{where}.{shown(name)[1:-1] if isinstance(name, str) else shown(name)}"
            open_ += [(path.removeprefix("the configuration."), inner), ("a key", name)]


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _nearest(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What to write in place of a key that is none: its name elsewhere, another tool's name, or a near spelling."""
    name, section = str(location[-1]), ".".join(map(str, location[:-1]))
    if elsewhere := [path for path in paths(schema) if path.rpartition(".")[2] == name]:
        return f"did you mean {' or '.join(elsewhere)}?"
    if name in ALIASES:
        return f"did you mean {ALIASES[name]}?"
    known = _keys(schema, location[:-1])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {'.'.join(filter(None, [section, *near]))}?" if near else f"known: {', '.join(known)}"


def paths(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted path of every setting."""
    for name, field in schema.model_fields.items():
        yield f"{prefix}{name}"
        if section := _section(field.annotation):
            yield from paths(section, f"{prefix}{name}.")


def _remedy(kind: str, fault: Any) -> str:
    limits = fault.get("ctx", {})
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", limits["expected"])
        near = difflib.get_close_matches(shown(fault["input"]), choices, n=1)
        return (f"did you mean {near[0]}? " if near else "") + f"choose one of {', '.join(choices)}"
    for bound, words in (("ge", "{} or more"), ("gt", "more than {}"), ("le", "{} or less"), ("lt", "less than {}")):
        if bound in limits:
            return "give " + words.format(limits[bound])
    if kind == "string_too_short":
        return "give a value, or leave the key out for its default"
    return f"give {_WANTED.get(kind.split('_')[0], 'another value')}"


def _keys(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `location`, or of the section around it where it holds none."""
    return list(_at(schema, location).model_fields)


def _at(schema: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    section = schema
    for part in location:
        field = section.model_fields.get(str(part))
        if field is None or (inner := _section(field.annotation)) is None:
            break
        section = inner
    return section


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be null."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
