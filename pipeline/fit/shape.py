"""What of a model its memory and arithmetic depend on, read from config.json and the headers of its weights.

No weights are loaded. A folder with a config.json alone will do, so that a model can be planned for before it is
fetched; torch and transformers, which then build it without weights, are imported for the rarer families alone.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.compute import gguf
from pipeline.compute.configuration import text_part
from pipeline.compute.limits import built, read_config, weight_files
from pipeline.errors import UserError

Tensors = Mapping[str, tuple[int, ...]]  # shapes by name

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|blk)\.(\d+)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output)\.weight$")
_EMBEDDINGS = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|token_embd|embeddings)\.weight$")
_EXPERTS = re.compile(r"\.experts\.|_exps\.")
_GATED = re.compile(r"gate_proj|gate_up_proj|ffn_gate|\.w3\.")
_ASIDE = re.compile(r"vision|visual|audio")  # of a model that sees: it is in memory, and no pair goes through it
# Families of which config.json alone says every tensor: separate projections, a gated MLP.
_PLAIN = {"llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text"}
_PLAIN |= {"olmo2", "olmo3", "smollm3", "granite"}

# The names that families have for one thing, in config.json and, after the architecture's own, in a .gguf file.
_KEYS = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "embedding_length"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "block_count"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "attention.head_count"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "attention.head_count_kv"),
    "head_dim": ("head_dim", "attention.key_length"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "feed_forward_length"),
    "vocab_size": ("vocab_size",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "expert_count"),
    "experts_a_token": ("num_experts_per_tok", "num_experts_per_token", "expert_used_count"),
    "expert_size": ("moe_intermediate_size", "expert_feed_forward_length", "intermediate_size", "feed_forward_length"),
}


@dataclass(frozen=True)
class Shape:
    """Sizes in parameters, and widths. Of a mixture all experts are in memory, and a token goes through some."""

    parameters: int  # as they lie in memory: weights that are shared count once
    active: int  # of the layers' matrices that a token goes through
    layers: int
    layer: int  # of the largest layer
    root: int  # outside all layers: embeddings, head, norms
    largest: int  # of the largest tensor
    width: int
    heads: int
    key_value_heads: int
    head_dim: int
    inner: int  # width within the MLP that a token goes through
    gated: bool  # the MLP multiplies two of them
    vocabulary: int
    tied: bool
    stored: int  # bytes of the files of weights; 0 without
    linear: tuple[tuple[str, int, int], ...]  # name, in and out of each matrix in a layer, experts not among them

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        return self.key_value_heads * self.head_dim


def shape_of(path: Path, given: str, trust_remote_code: bool = False) -> Shape:
    """The shape of the model in a folder or .gguf file; `given` is how the user named it.

    Raises UserError where the files do not say it. Code that a model brings is run where `trust_remote_code`, and
    there are no weights.
    """
    if path.suffix == ".gguf":
        known = gguf.metadata(path)
        family = f"{known.get('general.architecture')}."
        config: Mapping[str, Any] = {key.removeprefix(family): value for key, value in known.items()}
        return _shape(config, gguf.shapes(path), 0, given)
    config = read_config(path)
    files = weight_files(path)
    if not all(file.is_file() for file in files):  # an index alone, or some of what it names, is as none
        files = []
    tensors = dict(each for file in files for each in _header(file))
    if not tensors and text_part(config).get("model_type") in _PLAIN:
        tensors = _expected(config, given)
    if not tensors:
        model = built(path, given, trust_remote_code)
        config, tensors = model.config.to_dict(), {name: tuple(each.shape) for name, each in model.named_parameters()}
    return _shape(config, tensors, sum(file.stat().st_size for file in files), given)


def _header(file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                yield name, tuple(tensors.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error})", "fetch or save the model again") from None


def _shape(config: Mapping[str, Any], tensors: Tensors, stored: int, given: str) -> Shape:
    value = _reader(text_part(config), given)
    layers, width, heads = value("num_hidden_layers"), value("hidden_size"), value("num_attention_heads")
    experts, a_token = value("experts", 0), value("experts_a_token", 0)
    head = [name for name in tensors if _HEAD.search(name)]
    declared = text_part(config).get("tie_word_embeddings", config.get("tie_word_embeddings"))
    tied = not head or declared is True
    sizes = {name: math.prod(shape) for name, shape in tensors.items() if not (tied and name in head)}
    in_layers = {name: size for name, size in sizes.items() if _LAYER.search(name) and not _ASIDE.search(name)}
    if not in_layers:
        raise _unknown(given, "its weights have no layers by any name that is known here")
    share = a_token / experts if experts and a_token else 1.0
    active = sum(
        size * (share if _EXPERTS.search(name) else 1.0) for name, size in in_layers.items() if len(tensors[name]) > 1
    )
    by_layer: dict[str, int] = {}
    for name, size in in_layers.items():
        number = _LAYER.search(name)
        assert number
        by_layer[number[1]] = by_layer.get(number[1], 0) + size
    inner = value("expert_size") * a_token if experts and a_token else value("intermediate_size", 4 * width)
    return Shape(
        parameters=sum(sizes.values()),
        active=round(active),
        layers=layers,
        layer=max(by_layer.values()),
        root=sum(sizes.values()) - sum(in_layers.values()),
        largest=max(sizes.values()),
        width=width,
        heads=heads,
        key_value_heads=value("num_key_value_heads", heads),
        head_dim=value("head_dim", width // heads),
        inner=inner,
        gated=any(_GATED.search(name) for name in in_layers),
        vocabulary=value("vocab_size", _vocabulary(tensors)),
        tied=tied,
        stored=stored,
        linear=tuple(
            (name.removesuffix(".weight"), tensors[name][1], tensors[name][0])
            for name in in_layers
            if len(tensors[name]) == 2 and name.endswith(".weight") and not _EXPERTS.search(name)
        ),
    )


def _reader(text: Mapping[str, Any], given: str) -> Any:
    def value(what: str, otherwise: int | None = None) -> int:
        for key in _KEYS[what]:
            found = text.get(key)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
        if otherwise is None:
            said = [f"{key}={text[key]!r}" for key in _KEYS[what] if text.get(key) is not None]
            raise _unknown(given, f"its config.json has {', '.join(said) or f'no {what}'}")
        return otherwise

    return value


def _vocabulary(tensors: Tensors) -> int | None:
    return next((shape[0] for name, shape in tensors.items() if _EMBEDDINGS.search(name)), None)


def _expected(config: Mapping[str, Any], given: str) -> dict[str, tuple[int, ...]]:
    """The tensors of a model of a plain family, where there are no weights yet."""
    text = text_part(config)
    value = _reader(text, given)
    width, heads, vocabulary = value("hidden_size"), value("num_attention_heads"), value("vocab_size")
    head_dim = value("head_dim", width // heads)
    query, key_value = heads * head_dim, value("num_key_value_heads", heads) * head_dim
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
    }
    if not text.get("tie_word_embeddings", str(text.get("model_type")).startswith("gemma")):
        found["lm_head.weight"] = (vocabulary, width)
    for number in range(value("num_hidden_layers")):
        for name, out, into in (
            ("q", query, width),
            ("k", key_value, width),
            ("v", key_value, width),
            ("o", width, query),
        ):
            found[f"model.layers.{number}.self_attn.{name}_proj.weight"] = (out, into)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{number}.{name}.weight"] = (width,)
        experts, mlp = value("experts", 0), f"model.layers.{number}.mlp"
        inner = value("expert_size" if experts else "intermediate_size")
        if experts:
            found[f"{mlp}.gate.weight"] = (experts, width)
        for each in [f"{mlp}.experts.{expert}" for expert in range(experts)] or [mlp]:
            shapes = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
            found |= {f"{each}.{name}.weight": shape for name, shape in shapes.items()}
    return found


def _unknown(given: str, why: str) -> UserError:
    return UserError(
        f"what {given} needs cannot be told: {why}",
        "give a causal language model as save_pretrained writes it, with its weights",
    )
