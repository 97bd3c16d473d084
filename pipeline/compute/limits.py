"""What a model cannot do, read from its folder before anything is computed with it. Needs no torch."""

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute.configuration import doubt, embeddings, require_sense, text_part
from pipeline.errors import UserError, code_not_trusted
from pipeline.preferences.messages import Dropped

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipeline.preferences.tokenise import TokenisedPair, Tokeniser

ADAPTERS = "adapter_config.json"
# A folder may hold either beside much else that is a pickle too, such as training_args.bin.
_PICKLED = re.compile(r"(pytorch_model|consolidated|model)\b.*\.(bin|pth|pt|ckpt)")
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the names that transformers opens
# Heads that read a sequence and write no next token.
_OTHER_HEADS = re.compile(
    r"(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|MaskedLM|NextSentencePrediction"
    r"|RewardModel)$"
)


def require_language_model(folder: Path, given: str) -> None:
    """Raise UserError where a folder is plainly no causal language model; `given` is how the user named it.

    What is not plain is left to transformers, which opens it.
    """
    require_configured(folder, given)
    names, weights = _files(folder), weight_files(folder)
    if weights:
        _require_one_set(folder, given, {file.relative_to(folder).as_posix() for file in weights}, names)
        return
    if pickled := sorted(filter(_PICKLED.match, names)):
        raise UserError(
            f"{given} has its weights as pickles alone ({', '.join(pickled[:3])}), which run code as they are read",
            "where you trust them, save them again as safetensors: "
            + _saving("transformers", "AutoModelForCausalLM", folder, "", tokenizer=str(folder)),
        )
    others = ", ".join(sorted(name for name in names if name.endswith(".safetensors"))[:3])
    raise UserError(
        f"{given} has a config.json and no weights ({ONE}{f', but {others}' if others else ''})",
        "fetch its weights, too; without them, python -m jobs.fit says what the model needs, and nothing more",
    )


def require_reward_model(folder: Path, given: str) -> None:
    """The same of a model that gives a whole sequence a score."""
    _require_config_file(folder, given)
    heads = [str(name) for name in read_config(folder).get("architectures") or []]
    if heads and all(name.endswith("ForCausalLM") for name in heads):
        problem = f"{given} is a language model ({', '.join(heads)}), and gives no score"
        raise UserError(problem, "give a reward model, with one label; a language model can judge: {local: FOLDER}")
    if not weight_files(folder):
        raise UserError(f"{given} has a config.json and no weights ({ONE})", "fetch its weights, too")


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads a model's weights from: one, or those that an index names; none without."""
    if (folder / ONE).is_file():
        return [folder / ONE]
    return [folder / name for name in sorted(_indexed(folder))]


def _indexed(folder: Path) -> set[str]:
    found = read_json(folder / INDEX).get("weight_map")
    return {str(name) for name in found.values()} if isinstance(found, dict) else set()


def _require_one_set(folder: Path, given: str, weights: set[str], names: set[str]) -> None:
    """Raise UserError where files of weights are missing, or vLLM would read others than transformers does.

    vLLM reads those that an index names, and without one all that there are.
    """
    if missing := sorted(name for name in weights if not (folder / name).is_file()):
        problem = f"{given} lacks {', '.join(missing[:3])}, which its {INDEX} names"
        raise UserError(problem, "fetch or save the model again")
    also = _indexed(folder) or {name for name in names if name.endswith(".safetensors")}
    if others := sorted(also - weights):
        raise UserError(
            f"{given} has weights beside {ONE}: {', '.join(others[:3])}{' by its index' if _indexed(folder) else ''}",
            f"move what is not meant out of the folder: {ONE} would be trained, and vLLM would answer with the others",
        )


def require_configured(folder: Path, given: str) -> None:
    """The same of a folder that may lack its weights: a model is planned for by its config.json."""
    _require_config_file(folder, given)
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{given}: its config.json is no JSON ({error})", "fetch or save the model again") from None
    config = read_config(folder)
    ends = {name: read_json(folder / name).get("eos_token_id") for name in ("config.json", "generation_config.json")}
    require_sense(config, given, ends)
    heads = [str(name) for name in config.get("architectures") or []]
    if config.get("is_encoder_decoder") or (heads and all(map(_OTHER_HEADS.search, heads))):
        what = f"{', '.join(heads) or config.get('model_type')}"
        kind = "an encoder with a decoder" if config.get("is_encoder_decoder") else "no language model"
        raise UserError(f"{given} is {kind} ({what})", "give a causal language model, whose next token can be scored")


def _require_config_file(folder: Path, given: str) -> None:
    names = _files(folder)
    if ADAPTERS in names:
        raise _adapters(folder, given, beside="config.json" in names)
    if "config.json" not in names:
        found = ", ".join(sorted(names)[:8]) or "nothing"
        raise UserError(f"{given} has no config.json (found: {found})", "give a directory as save_pretrained writes it")


def require_buildable(folder: Path, given: str, trust_remote_code: bool) -> None:
    """Raise UserError where transformers cannot make a model of a config.json; asked where a look leaves doubts."""
    if doubt(read_config(folder)):
        built(folder, given, trust_remote_code)


def built(folder: Path, given: str, trust_remote_code: bool) -> "PreTrainedModel":
    """The model that transformers makes by a config.json, without weights. Raises UserError where it makes none."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # of any kind, by code of any model
        what = f", with {what}" if (what := doubt(read_config(folder))) else ""
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{given}: no model can be made by its config.json{what} ({why})",
            code_not_trusted(error) or "mend it, or give a causal language model as save_pretrained writes it",
        ) from error


def require_trainable(folder: Path, given: str) -> None:
    """Raise UserError where the weights in a folder are quantised: vLLM may serve them, nothing here can train them."""
    config = read_config(folder)
    found = config.get("quantization_config") or text_part(config).get("quantization_config")
    if isinstance(found, Mapping):
        how = found.get("quant_method") or next((key for key in found if key.startswith("load_in_")), "unnamed")
        raise UserError(
            f"{given} is quantised (quantization_config in its config.json: {how}), and such weights cannot be trained",
            "give the weights it was made from, often named the same without -4bit, -AWQ, -GPTQ or -FP8; "
            "train.lora then trains few of them",
        )


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file()}


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json; empty where it is none, which is found out when the model is opened."""
    return read_json(folder / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where it is not there or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model takes, where its config.json says so.

    Scaled rotary embeddings reach further than max_position_embeddings where they are stretched by a plain factor; the
    other kinds name the number that they reach.
    """
    text = text_part(config)
    given = [text.get(key) for key in ("max_position_embeddings", "n_positions", "max_seq_len")]
    found = [number for number in given if isinstance(number, int) and number]
    if not found:
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, Mapping))]  # one for all layers, or by kind
    factors = [each.get("factor") for each in kinds if _rope(each) in ("linear", "dynamic")]
    stretched = [number for number in factors if isinstance(number, (int, float)) and number]
    # Gemma 3 names the number that its global layers reach, factor and all.
    factor = 1 if str(text.get("model_type", "")).startswith("gemma3") else max(stretched, default=1)
    return int(min(found) * factor)


def _rope(parameters: Mapping[str, Any]) -> Any:
    return parameters.get("rope_type") or parameters.get("type")


@dataclass(frozen=True)
class Limits:
    """What a model's tokens must keep to; None: its config.json does not say."""

    embeddings: int | None
    positions: int | None

    @classmethod
    def of(cls, folder: Path) -> "Limits":
        config = read_config(folder)
        return cls(embeddings(config), positions(config))

    def require(self, tokeniser: "Tokeniser") -> None:
        """Raise UserError where the template itself writes a token that the model has no embedding for."""
        ids = tokeniser.prompt([{"role": "user", "content": "x"}])
        for id_ in [*(ids if isinstance(ids, list) else []), tokeniser.end_id]:
            if self._beyond(id_):
                raise UserError(
                    f"the chat template writes {tokeniser.tokenizer.convert_ids_to_tokens(id_)}, "
                    f"which is token {id_} of {self.embeddings} embeddings",
                    "give the tokenizer and template that the weights were trained with, or give the weights as many "
                    "embeddings as the tokenizer has tokens (resize_token_embeddings) and train those first",
                )

    def check(self, pair: "TokenisedPair") -> Dropped | None:
        """Why the model cannot compute a pair, if so. Each side follows the prompt by itself."""
        sides = pair.chosen_ids, pair.rejected_ids
        longest = len(pair.prompt_ids) + max(map(len, sides))
        if self.positions is not None and longest > self.positions:
            return Dropped("longer-than-model", f"{longest} tokens, the model has {self.positions} positions")
        largest = max(itertools.chain(pair.prompt_ids, *sides))
        if self._beyond(largest):
            return Dropped("no-embedding", f"token {largest} of {self.embeddings} embeddings")
        return None

    def _beyond(self, id_: int) -> bool:
        return self.embeddings is not None and id_ >= self.embeddings


def _adapters(folder: Path, given: str, beside: bool) -> UserError:
    try:
        base = json.loads((folder / ADAPTERS).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    tokenizer = str(folder) if (folder / "tokenizer_config.json").exists() or not base else str(base)
    merge = _saving("peft", "AutoPeftModelForCausalLM", folder, ".merge_and_unload()", tokenizer)
    return UserError(
        f"{given} holds adapters ({ADAPTERS}) of the model {base or 'that it does not name'}"
        + (", beside a model" if beside else ", and is no model by itself"),
        f"merge them into it once, and give the folder `whole`: {merge}"
        + (f"; or take {ADAPTERS} away, to have the model without them" if beside else ""),
    )


def _saving(package: str, auto: str, folder: Path, then: str, tokenizer: str) -> str:
    """A line of shell that opens what is in `folder` and saves it, with a tokenizer, into a folder `whole`."""
    return (
        f'python -c "from {package} import {auto} as M; from transformers import AutoTokenizer as T; '
        f"M.from_pretrained({str(folder)!r}, dtype='auto'){then}.save_pretrained('whole'); "
        f"T.from_pretrained({tokenizer!r}).save_pretrained('whole')\""
    )
