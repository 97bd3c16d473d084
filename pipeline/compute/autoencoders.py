"""Sparse autoencoders as they are published, read to one form: features of a decoder layer's output.

    Gemma Scope           params.npz                                    JumpReLU, a threshold a latent
    Llama Scope           hyperparams.json, checkpoints/final.safetensors   JumpReLU or TopK of scaled states
    EleutherAI sparsify   cfg.json, sae.safetensors                     TopK; what is trained here is written so
    SAELens               cfg.json, sae_weights.safetensors             ReLU, JumpReLU or TopK

The top of the file answers without torch. Shapes: T positions, C hidden size, M latents.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.results.files import DigestMemory

if TYPE_CHECKING:
    import torch

GEMMA, LLAMA, SPARSIFY, SAELENS = "Gemma Scope", "Llama Scope", "sparsify", "SAELens"
_FILES = {
    GEMMA: ("params.npz",),
    LLAMA: ("hyperparams.json", "checkpoints/final.safetensors"),
    SPARSIFY: ("cfg.json", "sae.safetensors"),
    SAELENS: ("cfg.json", "sae_weights.safetensors"),
}
# Raise a format's number when its reader makes other features of the same files: what they were read to is made again.
_READ_AS = {LLAMA: 2}  # 1: with a threshold that was not scaled
_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_resid_(pre|post)")
_IN_PATH = re.compile(r"(?:model\.)?layers?[._](\d+)")
# Folders and repositories of autoencoders of something else in a layer.
_BESIDE = re.compile(r".*gemma-scope-.*-(?:att|mlp|transcoders)|(?:model\.)?layers?[._]\d+\.\w+")


@dataclass(frozen=True)
class Found:
    """An autoencoder's folder: whose format it is, what its settings say, and the layer that it was made for."""

    folder: Path
    format: str
    settings: Mapping[str, Any]
    layer: int | None  # whose output, from 0; None where neither settings nor path say

    @property
    def files(self) -> list[Path]:
        return [self.folder / name for name in _FILES[self.format]]

    def digest(self, memory: DigestMemory) -> str:
        """Of the content, whatever the folder is called, and of how it is read."""
        told = "".join(f"{file.name}\0{memory.digest(file)}\n" for file in self.files)
        told += f"read as {_READ_AS[self.format]}" if self.format in _READ_AS else ""
        return hashlib.sha256(told.encode()).hexdigest()


def find(folder: Path, setting: str = "features.source") -> Found:
    """Look at a folder. Raises UserError where it is no autoencoder of a residual stream that can be read."""
    kind = next((kind for kind, names in _FILES.items() if all((folder / name).is_file() for name in names)), None)
    if kind is None:
        told = "; ".join(f"{kind}: {' and '.join(names)}" for kind, names in _FILES.items())
        raise UserError(f"{setting}={folder} holds no sparse autoencoder", f"give a folder with the files of {told}")
    settings: dict[str, Any] = {}
    if kind != GEMMA:
        written = _FILES[kind][0]
        try:
            settings = json.loads((folder / written).read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{setting}={folder}: {written} is no JSON ({error})", "fetch it again") from None
    found = Found(folder, kind, settings, _layer(folder, kind, settings, setting))
    if why := _unread(found):
        raise UserError(f"{setting}={folder} is {kind}'s, with {why}, which is not read here", "choose another one")
    return found


def _layer(folder: Path, kind: str, settings: Mapping[str, Any], setting: str) -> int | None:
    if "layer" in settings and kind == SPARSIFY:  # as what is trained here says it
        return int(settings["layer"])
    if kind in (GEMMA, SPARSIFY):
        parts = folder.absolute().parts[::-1]
        if beside := next(filter(_BESIDE.fullmatch, parts), None):
            raise _of_no_output(f"{setting}={folder}", beside, "a folder of residual streams, such as layers.L")
        return next((int(match[1]) for match in map(_IN_PATH.fullmatch, parts) if match), None)
    metadata = settings.get("metadata") or {}
    hook = settings.get("hook_point_in") or settings.get("hook_name") or metadata.get("hook_name")
    if hook is None:
        return None
    match = _RESIDUAL.fullmatch(str(hook))
    layer = int(match[1]) - (match[2] == "pre") if match else -1
    if layer < 0:
        raise _of_no_output(f"{setting}={folder}", hook, "one of blocks.L.hook_resid_post")
    return layer


def _of_no_output(whose: str, hook: str, other: str) -> UserError:
    problem = f"{whose} was made for {hook}, and features are of the output of a decoder layer"
    return UserError(problem, f"choose {other}")


def _unread(found: Found) -> str:
    """What of the settings is not computed here; nothing where all is."""
    given = found.settings
    known: dict[str, tuple[Any, ...]] = {}
    if found.format == SPARSIFY:
        known = {"activation": (None, "topk")}
        known |= dict.fromkeys(("transcode", "skip_connection", "signed"), (None, False))
    elif found.format == LLAMA:
        known = {"act_fn": (None, "relu", "topk", "jumprelu"), "norm_activation": (None, "dataset-wise")}
        known |= {"use_glu_encoder": (None, False)}
    elif found.format == SAELENS:
        known = {
            "architecture": (None, "standard", "jumprelu", "topk"),
            "activation_fn_str": (None, "relu", "topk"),
            "activation_fn": (None, "relu", "topk"),
            "normalize_activations": (None, "none"),
            "reshape_activations": (None, "none"),
        }
    return ", ".join(f"{key}={given.get(key)}" for key, values in known.items() if given.get(key) not in values)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """pre = (scale * x - shift) W + b, [M]; features = pre where positive, above its threshold and, with `active`,
    among the so many largest of its position; 0 elsewhere.
    """

    weight_CM: "torch.Tensor"
    bias_M: "torch.Tensor"
    shift_C: "torch.Tensor | None" = None  # what the decoder adds, where the encoder takes it off
    threshold_M: "torch.Tensor | None" = None
    active: int | None = None
    scale: float = 1.0

    @property
    def channels(self) -> int:
        return self.weight_CM.shape[0]

    @property
    def latents(self) -> int:
        return self.weight_CM.shape[1]

    def to(self, device: "torch.device", dtype: "torch.dtype") -> "Autoencoder":
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device, dtype)
            for name in ("weight_CM", "bias_M", "shift_C", "threshold_M")
            for value in (getattr(self, name),)
        }
        return replace(self, **moved)

    def encode(self, states_TC: "torch.Tensor") -> "torch.Tensor":
        """Features of each position, [T, M], differentiable where they are not 0."""
        import torch

        states_TC = self.scale * states_TC.to(self.weight_CM.dtype)
        if self.shift_C is not None:
            states_TC = states_TC - self.shift_C
        pre_TM = torch.addmm(self.bias_M, states_TC, self.weight_CM)
        features_TM = torch.relu(pre_TM)
        if self.threshold_M is not None:
            features_TM = features_TM * (pre_TM > self.threshold_M)
        if self.active is not None and self.active < self.latents:
            largest = features_TM.topk(self.active, dim=1)
            features_TM = torch.zeros_like(features_TM).scatter(1, largest.indices, largest.values)
        return features_TM


def read(found: Found) -> Autoencoder:
    """The encoder, in float32 on the CPU. Raises UserError where tensors are missing or do not fit together."""
    try:
        made = _READERS[found.format](found)
    except KeyError as missing:
        raise UserError(f"{found.folder} lacks {missing}", "fetch it again") from None
    wrong = [
        name
        for name in ("bias_M", "threshold_M")
        if (value := getattr(made, name)) is not None and value.shape != (made.latents,)
    ]
    if wrong or (made.shift_C is not None and made.shift_C.shape != (made.channels,)):
        raise UserError(f"{found.folder}: the shapes of its tensors do not fit together", "fetch it again")
    return made


def size(found: Found) -> tuple[int, int]:
    """Channels of the states that it reads, and its latents, by the headers of its files."""
    if found.format == GEMMA:
        import numpy as np

        with np.load(found.files[0], allow_pickle=False) as arrays:
            channels, latents = arrays["W_enc"].shape
            return int(channels), int(latents)
    from safetensors import safe_open

    with safe_open(found.files[1], framework="np") as tensors:
        if found.format == SAELENS:
            channels, latents = tensors.get_slice("W_enc").get_shape()
        else:
            latents, channels = tensors.get_slice("encoder.weight").get_shape()
    return int(channels), int(latents)


def _tensors(found: Found) -> "dict[str, torch.Tensor]":
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(found.files[1]).items()}


def _gemma(found: Found) -> Autoencoder:
    import numpy as np
    import torch

    with np.load(found.files[0], allow_pickle=False) as arrays:
        given = {name: torch.from_numpy(arrays[name]).float() for name in ("W_enc", "b_enc", "threshold")}
    return Autoencoder(given["W_enc"], given["b_enc"], threshold_M=given["threshold"])


def _llama(found: Found) -> Autoencoder:
    """States are scaled to a mean norm of sqrt(C); where the decoder's norms count, they stand before the threshold.

    The threshold was found for features of states as they are, and so is scaled with them.
    """
    settings, given = found.settings, _tensors(found)
    weight_CM, bias_M = given["encoder.weight"].T.contiguous(), given["encoder.bias"]
    if settings.get("sparsity_include_decoder_norm"):
        norms_M = given["decoder.weight"].norm(dim=0)
        weight_CM, bias_M = weight_CM * norms_M, bias_M * norms_M
    scale = 1.0
    if settings.get("norm_activation") or "dataset_average_activation_norm" in settings:
        scale = weight_CM.shape[0] ** 0.5 / settings["dataset_average_activation_norm"]["in"]
    kind = settings.get("act_fn", "jumprelu")
    threshold = bias_M.new_full(bias_M.shape, scale * settings["jump_relu_threshold"]) if kind == "jumprelu" else None
    shift = given["decoder.bias"] if settings.get("apply_decoder_bias_to_pre_encoder") else None
    active = int(settings["top_k"]) if kind == "topk" else None
    return Autoencoder(weight_CM, bias_M, shift, threshold, active, scale)


def _sparsify(found: Found) -> Autoencoder:
    given = _tensors(found)
    weight_CM = given["encoder.weight"].T.contiguous()
    return Autoencoder(weight_CM, given["encoder.bias"], given["b_dec"], active=int(found.settings["k"]))


def _saelens(found: Found) -> Autoencoder:
    settings, given = found.settings, _tensors(found)
    shift = given["b_dec"] if settings.get("apply_b_dec_to_input", True) else None
    kinds = {settings.get(key) for key in ("architecture", "activation_fn_str", "activation_fn")}
    threshold = given["threshold"] if "jumprelu" in kinds else None
    active = None
    weight_CM, bias_M = given["W_enc"], given["b_enc"]
    if "topk" in kinds:
        options = settings.get("activation_fn_kwargs") or settings
        active = int(options["k"])
        if settings.get("rescale_acts_by_decoder_norm"):
            norms_M = given["W_dec"].norm(dim=1)
            weight_CM, bias_M = weight_CM * norms_M, bias_M * norms_M
    return Autoencoder(weight_CM, bias_M, shift, threshold, active)


_READERS: dict[str, Callable[[Found], Autoencoder]] = {
    GEMMA: _gemma,
    LLAMA: _llama,
    SPARSIFY: _sparsify,
    SAELENS: _saelens,
}
