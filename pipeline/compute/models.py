"""Which model is meant, by content; and loading it for the one compute path.

The top of the file answers without torch, so that a plan can be made at once; what needs torch imports it inside.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.compute import generation
from pipeline.compute.limits import require_language_model
from pipeline.errors import UserError, code_not_trusted, out_of_memory
from pipeline.packages import SCHEME, in_package
from pipeline.preferences.files import begins
from pipeline.preferences.template import DATE
from pipeline.results.artifacts import canonical
from pipeline.results.files import DigestMemory, given_path
from pipeline.settings.inputs import Model
from pipeline.settings.resources import Resources
from pipeline.settings.training import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A model directory is these files; pickles are never read. Its code is, where model.trust_remote_code says so.
_FILES = (".safetensors", ".json", ".jinja", ".txt", ".model")
_CODE = (".py",)
_TEMPLATES = "additional_chat_templates"  # a folder in it, of templates by name
# Words about a model and records of how it came to be: nothing here reads them.
_ASIDE = re.compile(
    r"(readme|licen[cs]e|notice|copying|changelog|use_policy|model_?card|requirements|trainer_state|training_"
    r"|(all|train|eval|test|predict)_results).*\.(json|txt)",
    re.IGNORECASE,
)


LANGUAGE_MODEL = "a causal language model as save_pretrained writes it"


@dataclass(frozen=True)
class ModelSource:
    """A model found on this machine, named by the digest of its content."""

    label: str
    path: Path  # a directory in Hugging Face format, or a .gguf file
    digest: str
    is_gguf: bool
    weights: str  # the digest without how conversations are rendered: what a conversion is found by


def locate(
    model: Model,
    memory: DigestMemory,
    verify: bool = False,
    setting: str = "model",
    require: Callable[[Path, str], None] = require_language_model,
) -> ModelSource:
    """Find what the section `setting` names and digest it. Raises UserError that says what was looked for.

    `require` raises one where a folder, named as the user did, is plainly not what is wanted.
    """
    path = find_path(model, setting)
    files = _content(path, _endings(model)) if path.is_dir() else [path]
    for file in files:
        begins(file)  # which is told first where a file is not here in truth
    if path.is_dir():
        require(path, f"{setting}.source={model.source}")
    elif path.suffix != ".gguf":
        raise UserError(f"{setting}.source={model.source} is neither a directory nor a .gguf file", "give one of these")
    if model.chat_template and not given_path(model.chat_template, f"{setting}.chat_template").is_file():
        raise UserError(f"{setting}.chat_template={model.chat_template}: there is no such file", "give a Jinja file")
    digest, weights = _digests(model, files, memory, verify)
    label = Path(model.source).name.strip(".~") or path.resolve().name
    return ModelSource(
        label.removesuffix(".gguf").lower().replace(".", "-"), path, digest, path.suffix == ".gguf", weights
    )


def _digests(model: Model, files: Sequence[Path], memory: DigestMemory, verify: bool) -> tuple[str, str]:
    """Of a model's files with how its conversations are rendered; and without."""
    digest = hashlib.sha256()
    for file in files:
        if file.name != generation.FILE:
            digest.update(f"{file.name}\0{memory.digest(file, verify)}\n".encode())
        elif (ends := _ends(file)) is not None:
            digest.update(f"{file.name}\0{ends}\n".encode())
    weights = digest.hexdigest()
    if model.chat_template:
        file = Path(model.chat_template)
        digest.update(f"{file.name}\0{memory.digest(file, verify)}\n".encode())
    for name, default in (("template_arguments", {}), ("template_date", DATE)):  # a part of every rendering
        if (value := getattr(model, name)) != default:
            digest.update(f"{name}\0{canonical(value if name == 'template_arguments' else str(value))}\n".encode())
    return digest.hexdigest(), weights


def _content(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files that what is computed with a model may depend on, in order (docs/design.md, Identity)."""
    found = sorted(file for file in folder.iterdir() if file.is_file() and file.name.endswith(endings))
    named = sorted((folder / _TEMPLATES).glob("*.jinja"))
    return [file for file in (*found, *named) if not _ASIDE.fullmatch(file.name)]


def _ends(file: Path) -> list[Any] | None:
    """The tokens that end an answer by a generation_config.json, which is all that is computed with.

    None where it cannot be read: as without one, transformers and vLLM then go by the model's config.json.
    """
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        return None
    return sorted({*ends}, key=str) if isinstance(ends, list) else [] if ends is None else [ends]


def _endings(model: Model) -> tuple[str, ...]:
    return (*_FILES, *_CODE) if model.trust_remote_code else _FILES


def find_path(model: Model, setting: str, only: Sequence[str] | None = None) -> Path:
    """Where the model is: a folder or a file; of the hub fetched first, or of its files those that match `only`."""
    if model.source.startswith(SCHEME):
        path = given_path(str(in_package(model.source, f"{setting}.source")), f"{setting}.source")
    else:
        path = given_path(model.source, f"{setting}.source")
    if path.exists():
        return path
    if model.source.startswith(("/", ".", "~", SCHEME)) or model.source.count("/") != 1:
        problem = f"{setting}.source={model.source}: there is nothing at {path}"
        raise UserError(problem, "give a directory, a .gguf file or a hub name such as owner/name")
    return _download(model, setting, only)


def _download(model: Model, setting: str, only: Sequence[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = only or [f"*{ending}" for ending in _endings(model)]
        return Path(snapshot_download(model.source, revision=model.revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's client raises its own, httpx's and the system's errors
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        problem = f"{setting}.source={model.source} is no local path, and the hub did not give it ({why})"
        raise UserError(problem, "check the name, the revision and the network, or give a local directory") from None


def convert_gguf(source: ModelSource, folder: Path) -> None:
    """Write a .gguf model and its tokenizer as a Hugging Face directory in float32, which vLLM opens too."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, name = str(source.path.parent), source.path.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_model(
    folder: Path,
    dtype: str,
    device: str = "cpu",
    *,
    trust_remote_code: bool = False,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    to_train: bool = False,
    adapter: tuple[Path, Lora] | None = None,
) -> "PreTrainedModel":
    """A causal language model in eval mode, run over packs where it can be. Weights are read from safetensors only.

    `device` is a torch device, or "auto": laid over all GPUs in sight, layer after layer, to be scored with.
    Code that the model brings is run where `trust_remote_code`; an `adapter`'s folder is merged into it. Raises
    UserError where it cannot be opened, lacks weights, scores otherwise than by its own forward, or is slow on a GPU
    where `resources` does not allow it; where memory runs out, what says so comes through.
    """
    from transformers import AutoModelForCausalLM

    model = open_whole(AutoModelForCausalLM, folder, dtype, device, trust_remote_code)
    if adapter:
        from pipeline.compute.adapters import merge_adapters

        model = merge_adapters(model, *adapter)
    make_ready(model, resources, to_train=to_train)
    return model


def open_whole(
    kind: Any, folder: Path, dtype: str, device: str, trust_remote_code: bool, wanted: str = LANGUAGE_MODEL
) -> "PreTrainedModel":
    """The model that `kind`, an auto class of transformers, opens, with all weights. Raises UserError."""
    import torch

    with opening(folder, wanted):
        loaded: Any = kind.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            device_map=device,
            trust_remote_code=trust_remote_code,
        )
    model, report = loaded
    require_whole(folder, model, report)
    if device == "auto":
        _require_on_gpus(model, folder)
    return model  # type: ignore[no-any-return]


def make_ready(model: "PreTrainedModel", resources: Resources, **how: Any) -> None:
    """Settle how a model with its weights is run; `how` is what `choose` takes beside.

    Raises UserError where it scores otherwise than by its own forward, or is slow on a GPU and may not be.
    Of a model that is sharded, call it within a forward of the root (policy.py), on all workers.
    """
    from pipeline.compute.cpu import use_onednn
    from pipeline.compute.selfcheck import choose

    model.eval()
    if model.device.type == "cpu":  # where it computes: sharded weights may lie on the host of a GPU
        use_onednn(model)
    choose(model, resources, **how)


_INCOMPLETE = "its *.safetensors are incomplete: fetch or save the model again"


@contextmanager
def opening(folder: Path, wanted: str = LANGUAGE_MODEL) -> Iterator[None]:
    """What opening a model may raise, as a UserError; but where memory runs out, what says so."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:  # of any kind: by a config.json without sense, by code of any model
        if out_of_memory(error):  # no fault of the model; whoever loads it knows what to lower
            raise
        problem = f"the model in {folder} cannot be opened ({' '.join(str(error).split())[:300]})"
        remedy = code_not_trusted(error) or f"give {wanted}"
        raise UserError(problem, _INCOMPLETE if isinstance(error, SafetensorError) else remedy) from error


def require_whole(folder: Path, model: "PreTrainedModel", report: Mapping[str, Any]) -> None:
    """Raise UserError where transformers' report of loading says that weights are missing, or layers are left over.

    Layers of another part, such as an eye that a model is opened without, are none of its own.
    """
    if report["missing_keys"]:
        problem = f"the model in {folder} lacks weights: {', '.join(sorted(report['missing_keys'])[:5])}"
        raise UserError(problem, _INCOMPLETE)
    stacks = {stack for name in model.state_dict() if (stack := _stack(name))}
    if beyond := sorted(key for key in report["unexpected_keys"] if _stack(key) in stacks):
        problem = f"the model in {folder} has weights of layers that its config.json does not: {', '.join(beyond[:5])}"
        raise UserError(problem, "mend num_hidden_layers, or fetch the model again: its config.json is of another")


def _stack(name: str) -> str | None:
    """Of which layers a weight is one's, such as `model.layers.`."""
    found = re.match(r".*?\.(?=\d+\.)", name)
    return found[0] if found else None


def _require_on_gpus(model: "PreTrainedModel", folder: Path) -> None:
    """Raise UserError where a model does not fit the GPUs in sight, and a part of it was laid elsewhere."""
    if {weight.device.type for weight in model.parameters()} & {"cpu", "meta"}:  # meta: to be fetched for each use
        raise UserError(
            f"the GPUs of one actor cannot hold the model in {folder}: parts of it would be in the host's memory",
            "raise resources.gpus_per_actor, or set model.dtype=bfloat16, which takes half of float32's memory",
        )
