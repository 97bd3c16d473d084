"""Published formats of sparse autoencoders, from small files of each: the features by hand, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.compute.autoencoders import find, read, size
from pipeline.errors import UserError
from pipeline.results.files import DigestMemory, file_digest

C, M = 6, 10
Arrays = dict[str, torch.Tensor]


@pytest.fixture
def drawn() -> Arrays:
    """W_enc, W_dec, both biases, and 5 states."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (C, M), "W_dec": (M, C), "b_enc": (M,), "b_dec": (C,), "states": (5, C), "threshold": (M,)}
    made = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    return made | {"threshold": made["threshold"].abs()}


def gemma(folder: Path, drawn: Arrays) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
    arrays: dict[str, Any] = {name: drawn[name].numpy() for name in names}
    np.savez(folder / "params.npz", **arrays)
    return folder


def llama(folder: Path, drawn: Arrays, **settings: Any) -> Path:
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    known = {
        "hook_point_in": "blocks.19.hook_resid_post",
        "hook_point_out": "blocks.19.hook_resid_post",
        "d_model": C,
        "d_sae": M,
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.5,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": 3.5, "out": 3.5},
        "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "top_k": 3,
    }
    (folder / "hyperparams.json").write_text(json.dumps(known | settings))
    weights = {
        "encoder.weight": drawn["W_enc"].T.contiguous(),
        "encoder.bias": drawn["b_enc"],
        "decoder.weight": drawn["W_dec"].T.contiguous(),
        "decoder.bias": drawn["b_dec"],
    }
    save_file({name: each.bfloat16() for name, each in weights.items()}, folder / "checkpoints" / "final.safetensors")
    return folder


def sparsify(folder: Path, drawn: Arrays, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"expansion_factor": 32, "num_latents": M, "k": 3, "d_in": C, "normalize_decoder": True}
    (folder / "cfg.json").write_text(json.dumps(known | settings))
    weights = {"encoder.weight": drawn["W_enc"].T.contiguous(), "encoder.bias": drawn["b_enc"]}
    save_file(weights | {name: drawn[name] for name in ("W_dec", "b_dec")}, folder / "sae.safetensors")
    return folder


def saelens(folder: Path, drawn: Arrays, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {"architecture": "standard", "d_in": C, "d_sae": M, "hook_name": "blocks.8.hook_resid_pre"}
    (folder / "cfg.json").write_text(json.dumps(known | {"apply_b_dec_to_input": True} | settings))
    names = ("W_enc", "W_dec", "b_enc", "b_dec", *(["threshold"] if "jumprelu" in settings.values() else []))
    save_file({name: drawn[name] for name in names}, folder / "sae_weights.safetensors")
    return folder


def largest(pre: torch.Tensor, k: int) -> torch.Tensor:
    kept = torch.zeros_like(pre)
    for row, values in enumerate(pre.tolist()):
        for place in sorted(range(M), key=lambda at: -values[at])[:k]:
            kept[row, place] = max(0.0, values[place])
    return kept


def test_a_digest_says_how_the_files_are_read(tmp_path: Path, drawn: Arrays) -> None:
    """Llama Scope's were read otherwise before: nothing that was made so is found. Others' are of their files alone."""
    memory = DigestMemory(tmp_path)
    for make, added in ((gemma, ""), (sparsify, ""), (saelens, ""), (llama, "read as 2")):
        found = find(make(tmp_path / make.__name__, drawn))
        told = "".join(f"{file.name}\0{file_digest(file)}\n" for file in found.files) + added
        assert found.digest(memory) == hashlib.sha256(told.encode()).hexdigest()


def test_gemma_scope(tmp_path: Path, drawn: Arrays) -> None:
    """JumpReLU with a threshold a latent, nothing taken off the states; the layer stands in the path."""
    found = find(gemma(tmp_path / "layer_25" / "width_16k" / "average_l0_55", drawn))
    assert (found.layer, size(found)) == (25, (C, M))
    pre = drawn["states"] @ drawn["W_enc"] + drawn["b_enc"]
    expected = torch.where(pre > drawn["threshold"], pre, 0.0)
    assert bool((expected > 0).any()) and bool(((pre > 0) & (expected == 0)).any())
    torch.testing.assert_close(read(found).encode(drawn["states"]), expected)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("kind", ["jumprelu", "topk", "relu"])
def test_llama_scope(tmp_path: Path, drawn: Arrays, norms: bool, kind: str) -> None:
    """As its authors load it: the bias over what states are scaled by, decoder norms, then one threshold; bfloat16.

    Features are those of scaled states.
    """
    found = find(llama(tmp_path / "L19R", drawn, act_fn=kind, sparsity_include_decoder_norm=norms))
    assert (found.layer, size(found)) == (19, (C, M))
    rough = {name: each.bfloat16().float() for name, each in drawn.items()}
    scale = C**0.5 / 3.5
    pre = drawn["states"] @ rough["W_enc"] + rough["b_enc"] / scale
    pre = pre * (rough["W_dec"].norm(dim=1) if norms else 1.0)
    kept = {"jumprelu": torch.where(pre > 0.5, pre, 0.0), "topk": largest(pre, 3), "relu": torch.relu(pre)}[kind]
    expected = scale * kept
    assert kind != "jumprelu" or not torch.equal(kept > 0, scale * pre > 0.5)  # here it matters
    torch.testing.assert_close(read(found).encode(drawn["states"]), expected)


def test_sparsify(tmp_path: Path, drawn: Arrays) -> None:
    found = find(sparsify(tmp_path / "layers.5", drawn))
    assert (found.layer, size(found)) == (5, (C, M))
    pre = (drawn["states"] - drawn["b_dec"]) @ drawn["W_enc"] + drawn["b_enc"]
    features = read(found).encode(drawn["states"])
    torch.testing.assert_close(features, largest(pre, 3))
    assert int((features > 0).sum(1).max()) <= 3
    assert find(sparsify(tmp_path / "plain", drawn)).layer is None
    assert find(sparsify(tmp_path / "own", drawn, layer=2)).layer == 2


@pytest.mark.parametrize(
    ("settings", "of"),
    [
        ({}, "relu"),
        ({"architecture": "jumprelu", "apply_b_dec_to_input": False}, "jumprelu"),
        ({"architecture": "topk", "k": 4}, "topk"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}}, "topk"),
        ({"architecture": "topk", "k": 4, "rescale_acts_by_decoder_norm": True}, "rescaled"),
    ],
)
def test_saelens(tmp_path: Path, drawn: Arrays, settings: dict[str, Any], of: str) -> None:
    """The input of a block is the output of the one before."""
    found = find(saelens(tmp_path / "sae", drawn, **settings))
    assert (found.layer, size(found)) == (7, (C, M))
    shift = drawn["b_dec"] * settings.get("apply_b_dec_to_input", True)
    pre = (drawn["states"] - shift) @ drawn["W_enc"] + drawn["b_enc"]
    pre = pre * drawn["W_dec"].norm(dim=1) if of == "rescaled" else pre
    expected = largest(pre, 4) if of in ("topk", "rescaled") else torch.relu(pre)
    expected = torch.where(pre > drawn["threshold"], pre, 0.0) if of == "jumprelu" else expected
    torch.testing.assert_close(read(found).encode(drawn["states"]), expected)


def test_features_are_differentiable_where_they_are_not_0(tmp_path: Path, drawn: Arrays) -> None:
    for made in (gemma(tmp_path / "a", drawn), sparsify(tmp_path / "b", drawn), llama(tmp_path / "c", drawn)):
        autoencoder = read(find(made)).to(torch.device("cpu"), torch.float64)
        states = drawn["states"].double().requires_grad_()
        assert torch.autograd.gradcheck(autoencoder.encode, [states])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder, drawn: folder, "holds no sparse autoencoder"),
        (lambda folder, drawn: sparsify(folder, drawn, activation="groupmax"), "activation=groupmax"),
        (lambda folder, drawn: sparsify(folder, drawn, transcode=True), "transcode=True"),
        (lambda folder, drawn: saelens(folder, drawn, architecture="gated"), "architecture=gated"),
        (lambda folder, drawn: saelens(folder, drawn, normalize_activations="layer_norm"), "=layer_norm"),
        (lambda folder, drawn: saelens(folder, drawn, hook_name="blocks.8.hook_mlp_out"), "made for blocks.8.hook_mlp"),
        (lambda folder, drawn: saelens(folder, drawn, hook_name="blocks.0.hook_resid_pre"), "made for blocks.0.hook"),
        (lambda folder, drawn: llama(folder, drawn, hook_point_in="blocks.8.ln2.hook_normalized"), "was made for"),
        (lambda folder, drawn: llama(folder, drawn, act_fn="gelu"), "act_fn=gelu"),
        (lambda folder, drawn: llama(folder, drawn, use_glu_encoder=True), "use_glu_encoder=True"),
        (lambda folder, drawn: sparsify(folder, drawn, signed=True), "signed=True"),
        (lambda folder, drawn: sparsify(folder / "layers.5.mlp", drawn), "was made for layers.5.mlp"),
        (lambda folder, drawn: gemma(folder / "gemma-scope-2b-pt-mlp/layer_5", drawn), "was made for gemma-scope-2b"),
        (
            lambda folder, drawn: gemma(folder / "models--google--gemma-scope-2b-pt-transcoders/layer_5", drawn),
            "for mod",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, drawn: Arrays, make: Callable[[Path, Arrays], Path], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        find(make(tmp_path, drawn))


def test_tensors_that_are_missing_or_do_not_fit(tmp_path: Path, drawn: Arrays) -> None:
    bare = sparsify(tmp_path / "bare", drawn)
    save_file({"encoder.bias": drawn["b_enc"]}, bare / "sae.safetensors")
    with pytest.raises(UserError, match=r"lacks 'encoder.weight'"):
        read(find(bare))
    with pytest.raises(UserError, match="do not fit together"):
        read(find(sparsify(tmp_path / "odd", drawn | {"b_enc": drawn["b_enc"][:-1].clone()})))
    (tmp_path / "cut").mkdir()
    made = sparsify(tmp_path / "cut", drawn)
    (made / "cfg.json").write_text("{")
    with pytest.raises(UserError, match=r"cfg.json is no JSON"):
        find(made)


def test_a_digest_is_of_the_content(tmp_path: Path, drawn: Arrays) -> None:
    memory = DigestMemory(tmp_path / "memory")
    one, same, other = (
        find(sparsify(tmp_path / name, drawn, k=k)).digest(memory) for name, k in (("a", 3), ("b", 3), ("c", 4))
    )
    assert one == same != other
