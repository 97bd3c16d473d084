"""Which model is meant, by content; and loading it for the one compute path.

The top of the file answers without torch, so that a plan can be made at once; what needs torch imports it inside.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import DigestMemory
from pipeline.config import Model
from pipeline.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = (
    ".safetensors",
    ".json",
    ".jinja",
    ".txt",
    ".model",
)  # a model directory is these files; pickles are never read


@dataclass(frozen=True)
class ModelSource:
    """A model found on this machine, named by the digest of its content."""

    label: str
    path: Path  # a directory in Hugging Face format, or a .gguf file
    digest: str
    is_gguf: bool


def locate(model: Model, memory: DigestMemory, verify: bool = False) -> ModelSource:
    """Find what `model.source` names and digest it. Raises UserError that says what was looked for."""
    path = _path(model)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file.name.endswith(_WEIGHTS))
        names = [file.name for file in files]
        if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
            raise UserError(
                f"model.source={model.source} has no config.json with *.safetensors (found: {', '.join(names[:8]) or 'nothing'})",
                "give a directory as save_pretrained writes it",
            )
    elif path.suffix == ".gguf":
        files = [path]
    else:
        raise UserError(f"model.source={model.source} is neither a directory nor a .gguf file", "give one of these")
    if model.chat_template:
        if not Path(model.chat_template).is_file():
            raise UserError(f"model.chat_template={model.chat_template}: there is no such file", "give a Jinja file")
        files.append(Path(model.chat_template))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{memory.digest(file, verify)}\n".encode())
    return ModelSource(path.stem.lower().replace(".", "-"), path, digest.hexdigest(), path.suffix == ".gguf")


def _path(model: Model) -> Path:
    if model.source.startswith("package://"):
        package, _, name = model.source.removeprefix("package://").partition("/")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"model.source={model.source}: package {package} is not installed",
                f"pip install {package.replace('_', '-')}",
            )
        path = Path(next(iter(spec.submodule_search_locations))) / name
    else:
        path = Path(model.source).expanduser()
    if path.exists():
        return path
    if model.source.startswith(("/", ".", "~", "package://")) or model.source.count("/") != 1:
        raise UserError(
            f"model.source={model.source}: there is nothing at {path}", "give a directory, a .gguf file or a hub name"
        )
    return _download(model)


def _download(model: Model) -> Path:
    from huggingface_hub import snapshot_download

    try:
        patterns = [f"*{ending}" for ending in _WEIGHTS]
        return Path(snapshot_download(model.source, revision=model.revision, allow_patterns=patterns))
    except Exception as error:
        raise UserError(
            f"model.source={model.source} is no local path, and the hub did not give it ({type(error).__name__}: {str(error)[:200]})",
            "check the name, the revision and the network, or give a local directory",
        ) from None


def convert_gguf(source: ModelSource, folder: Path) -> None:
    """Write a .gguf model as a Hugging Face directory in float32, with its tokenizer, that transformers and vLLM open."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, name = str(source.path.parent), source.path.name
    tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_model(folder: Path, dtype: str, device: str = "cpu") -> "PreTrainedModel":
    """A causal language model in eval mode, its attention over packs. Weights are read from safetensors only."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.compute.attention import NAME

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=NAME, use_safetensors=True, local_files_only=True
    )
    return model.to(device).eval()
