"""What makes no sense in a model's config.json, looked for before anything is computed with it. Needs no torch.

What no model can mean is refused; what only the library that opens the model can decide is a doubt, and left to it.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from pipeline.errors import UserError

# What each kind of stretched rotary embeddings needs beside its name.
_ROPES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("default", "mrope", "proportional"), ()),
    **dict.fromkeys(("linear", "dynamic", "yarn"), ("factor",)),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    **dict.fromkeys(("longrope", "su"), ("short_factor", "long_factor")),
}
_COUNTS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIZES = (*_COUNTS, "num_key_value_heads", "max_position_embeddings")
_REMEDY = "mend it, or fetch the model again: its config.json belongs to its weights"


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a model that sees as well as reads, the part that reads."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def embeddings(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model has embeddings for, where its config.json says so."""
    found = text_part(config).get("vocab_size")
    return found if _is_size(found) else None


def require_sense(config: Mapping[str, Any], given: str, ends: Mapping[str, Any]) -> None:
    """Raise UserError for what no model can mean. `ends` are eos_token_id by the name of the file that says it."""
    if config.get("model_type") is None and not config.get("auto_map"):
        raise UserError(f"{given}: its config.json names no model_type", _REMEDY)
    text = text_part(config)
    for name in _COUNTS:
        if _is_number(value := text.get(name)) and value < 0:
            raise UserError(f"{given}: its config.json has {name}={value}", _REMEDY)
    heads, shared = text.get("num_attention_heads"), text.get("num_key_value_heads")
    if _is_size(heads) and _is_size(shared) and heads % shared:
        problem = f"its config.json has num_attention_heads={heads}, which num_key_value_heads={shared} does not divide"
        raise UserError(f"{given}: {problem}", _REMEDY)
    for rope in _ropes(config):
        for name in ("factor", "rope_theta"):
            value = rope.get(name)
            if _is_number(value) and value <= 0:
                raise UserError(f"{given}: its config.json has rotary embeddings of {name}={value}", _REMEDY)
    known = embeddings(config)
    for file, found in ends.items():
        for id_ in found if isinstance(found, list) else [found]:
            if known and isinstance(id_, int) and id_ >= known:
                raise UserError(
                    f"{given}: by its {file} answers end at token {id_} (eos_token_id), of {known} embeddings",
                    "name the token that ends an answer, or give the file that belongs to the weights",
                )


def doubt(config: Mapping[str, Any]) -> str | None:
    """What in a config.json makes it doubtful that the model can be opened; None where nothing does."""
    kind, text = config.get("model_type"), text_part(config)
    if not config.get("auto_map") and not _is_known(kind):
        return f"model_type={kind!r}"
    sizes = {name: text[name] for name in _SIZES if text.get(name) is not None}
    for name, value in sizes.items():
        if not _is_size(value):
            return f"{name}={value!r}"
    hidden, heads = sizes.get("hidden_size"), sizes.get("num_attention_heads")
    if hidden and heads and hidden % heads:
        return f"hidden_size={hidden}, which num_attention_heads={heads} does not divide"
    return next(filter(None, map(_doubt_of_rope, _ropes(config))), None)


def _doubt_of_rope(rope: Mapping[str, Any]) -> str | None:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    needed = _ROPES.get(kind) if isinstance(kind, str) else None
    if needed is None:
        return f"rope_type={kind!r}"
    if lacking := [name for name in needed if rope.get(name) is None]:
        return f"rope_type={kind!r} without {' and '.join(lacking)}"
    numbers = {name: rope.get(name) for name in ("rope_theta", "factor", "low_freq_factor", "high_freq_factor")}
    wrong = [f"{name}={value!r}" for name, value in numbers.items() if value is not None and not _is_number(value)]
    return ", ".join(wrong) or None


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parameters of rotary embeddings, which may be one for all layers or one a kind of them."""
    text = text_part(config)
    yield {name: text[name] for name in ("rope_theta",) if name in text}
    for name in ("rope_parameters", "rope_scaling"):
        if not (found := text.get(name)):
            continue
        if not isinstance(found, Mapping):
            yield {"type": found}
        elif kinds := [each for each in found.values() if isinstance(each, Mapping)]:
            yield from kinds
        else:
            yield found


def _is_known(kind: Any) -> bool:
    """Whether transformers' list of models, read as a text, has such a one."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None or not isinstance(kind, str):
        return False
    lists = [
        Path(spec.origin).parent / "models" / "auto" / f"{name}.py" for name in ("auto_mappings", "configuration_auto")
    ]
    return any(f'"{kind}"' in file.read_text(encoding="utf-8") for file in lists if file.is_file())


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
