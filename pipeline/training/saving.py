"""Saving what was trained so that others open it, ended as it was trained; and trying that before it is trained."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from pipeline.compute.adapters import add_adapters, untie
from pipeline.compute.generation import FILE, idle
from pipeline.compute.loading import open_empty
from pipeline.compute.policy import Policy
from pipeline.errors import UserError, no_room
from pipeline.preferences.tokenise import Tokeniser, open_tokeniser
from pipeline.settings.inputs import Model
from pipeline.settings.training import Lora
from pipeline.training.exporting import SHARD_BYTES, adapter_weights, export_weights, is_first

if TYPE_CHECKING:
    from peft import PeftModel


def tokeniser_of(folder: Path, settings: Model) -> Tokeniser:
    """The tokeniser of the model in `folder` that `settings` describe; for its ends and its template."""
    return open_tokeniser(folder, max_prompt_tokens=1, max_completion_tokens=1, **settings.rendering)


def save_trained(
    policy: Policy, base: Path, settings: Model, folder: Path, shard_bytes: int = SHARD_BYTES
) -> str | None:
    """Write what was trained from the model in `base`: the model, or its adapters alone where they are not merged.

    Every worker must call this; the first one writes, into `folder`/model or `folder`/adapter. Returns which of the two
    names it is, and None on the others.
    """
    empty = open_empty(base, settings.dtype, trust_remote_code=settings.trust_remote_code)
    empty.model.generation_config = _generation(base, empty.model.config)
    if policy.lora and not policy.lora.merge:
        weights = adapter_weights(policy)
        if is_first():
            save_adapter(add_adapters(empty.model, policy.lora), settings, folder / "adapter", state_dict=weights)
        return "adapter" if is_first() else None
    if policy.lora:
        untie(empty.model, policy.lora)  # which its configuration says
    if is_first():
        save_model(empty.model, tokeniser_of(base, settings), folder / "model", state_dict={})
    export_weights(policy, empty, folder / "model", shard_bytes)
    return "model" if is_first() else None


def save_model(trained: PreTrainedModel, tokeniser: Tokeniser, folder: Path, **options: Any) -> list[str]:
    """Write a model and its tokenizer in Hugging Face format; returns what `settle` left out."""
    dropped = settle(trained, tokeniser)
    trained.save_pretrained(folder, **options)
    tokeniser.tokenizer.save_pretrained(folder)
    return dropped


def save_adapter(trained: "PeftModel", base: Model, folder: Path, **options: Any) -> None:
    """Write adapters alone, in PEFT's format."""
    named = trained.peft_config["default"]
    named.base_model_name_or_path, named.revision = base.source, base.revision
    trained.save_pretrained(str(folder), save_embedding_layers=False, **options)  # the base model has them


def settle(model: PreTrainedModel, tokeniser: Tokeniser) -> list[str]:
    """Let `model` end what it generates at the token that ends a turn, too, and pad with a token that there is.

    The tokenizer keeps its own EOS, which templates may write. Returns the names of values of the generation_config
    that were left out, since they have no effect and transformers would save none of it with them.
    """
    if model.generation_config is None:
        model.generation_config = GenerationConfig.from_model_config(model.config)
    generation = model.generation_config
    ends = generation.eos_token_id
    known = ends if isinstance(ends, list) else [] if ends is None else [ends]
    generation._from_model_config = False  # transformers would make it anew from a config that knows no such end
    generation.eos_token_id = [tokeniser.end_id, *(id_ for id_ in known if id_ != tokeniser.end_id)]
    if generation.pad_token_id is None or generation.pad_token_id < 0:
        padding = tokeniser.tokenizer.pad_token_id
        known_to_model = padding is not None and padding < model.config.get_text_config().vocab_size
        generation.pad_token_id = padding if known_to_model else tokeniser.end_id
    dropped = idle(generation.to_dict())
    for name in dropped:
        setattr(generation, name, None)
    return dropped


def rehearse(base: Path, settings: Model, lora: Lora | None, folder: Path) -> list[str]:
    """Save into `folder` all of what a training from the model in `base` will, but for its weights, and open it again.

    Unmerged adapters are saved as they begin, without effect. Returns what is to be said once. Raises UserError where
    it cannot be saved, or opens as something else, so that no training ends in that.
    """
    tokeniser = tokeniser_of(base, settings)
    trusted: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    with _quiet():
        config = AutoConfig.from_pretrained(base, local_files_only=True, **trusted)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, **trusted)
        adapted = add_adapters(empty, lora) if lora else None
        try:
            empty.generation_config = _generation(base, config)
            if adapted and lora and not lora.merge:
                named = [(name, weight) for name, weight in adapted.state_dict().items() if "lora_" in name]
                begun = {name: torch.zeros_like(weight, device="cpu") for name, weight in named}
                save_adapter(adapted, settings, folder, state_dict=begun)
                return []
            dropped = save_model(empty, tokeniser, folder, state_dict={})
            AutoConfig.from_pretrained(folder, local_files_only=True, **trusted)
            _require_ends(folder, tokeniser)
            again = tokeniser_of(folder, settings.model_copy(update={"chat_template": None}))  # it is saved, too
        except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
            raise no_room(error) or UserError(
                f"what is trained from {base} could not be saved ({' '.join(str(error).split())[:300]})",
                "mend the file that this speaks of; where it is generation_config.json, and not its eos_token_id, "
                "all results so far stay valid",
            ) from error
    if _rendered(again) != _rendered(tokeniser):
        problem = f"the tokenizer of {base} is another one after it is saved and opened again"
        raise UserError(problem, "save it with save_pretrained, see that it opens as itself, and give that folder")
    names = ", ".join(dropped)
    return [f"{names} in the model's generation_config have no effect, and are left out of the export"] if names else []


def _generation(folder: Path, config: Any) -> GenerationConfig:
    """As transformers reads it beside the weights."""
    try:
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # there is none, or it is no JSON
        return GenerationConfig.from_model_config(config)


def _require_ends(folder: Path, tokeniser: Tokeniser) -> None:
    ends = json.loads((folder / FILE).read_text(encoding="utf-8"))["eos_token_id"]
    if tokeniser.end_id not in ends:
        raise ValueError(f"its generation_config.json ends at {ends}, a turn at {tokeniser.end_id}")


def _rendered(tokeniser: Tokeniser) -> tuple[Any, int]:
    return tokeniser.prompt([{"role": "user", "content": "A word, and \n 2 lines."}]), tokeniser.end_id


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars, and warnings of what is mended here or said when it is trained."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
