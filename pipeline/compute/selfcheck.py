"""How a loaded model is run, found out before anything is computed with it: by comparing with its own plain forward.

A model may run attention of its own beside transformers' interface, carry a state from token to token, or add to
attention what the packed one does not know; it would then see other pairs of the pack, or score otherwise. A kernel may
not compile here, or be wrong. All of it would train silently wrong, or slowly. So each way is tried, fastest first, and
what was chosen is kept with the model, beside what is faster and why it was not taken.
"""

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from pipeline.compute.attention import NAME, flexes, is_packed
from pipeline.compute.comparison import CANNOT, LONG, SCORED, SHORT, Comparison, Size, narrow_windows
from pipeline.compute.fused_head import fuse, is_fused, is_installed
from pipeline.compute.layers import compile_layers, restore_layers
from pipeline.compute.logprobs import turning
from pipeline.errors import UserError
from pipeline.settings.resources import Resources

_CHOSEN = "_widemargin_chosen"


@dataclass(frozen=True)
class Chosen:
    """How a model is run, in words, and for each faster way why it was not taken."""

    attention: str
    head: str
    layers: str
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((f"attention {self.attention}; head {self.head}; layers {self.layers}", *self.why))

    def words(self, device: str, dtype: str, named: str = "") -> str:
        """What a stage says of how it runs its model, on a device of this type, or as it is `named`."""
        slow = ": model.dtype=bfloat16 is many times as fast there" if (device, dtype) == ("cuda", "float32") else ""
        return f"{dtype} on {named or device}{slow}; {self}"


def chosen(model: PreTrainedModel) -> Chosen:
    """How a loaded model is run; as it is by itself where nothing was chosen."""
    found: Chosen = getattr(model, _CHOSEN, Chosen(str(model.config._attn_implementation), "its own", "as they are"))
    return found


def keep_head_in_chunks(model: PreTrainedModel) -> None:
    """For an objective that reads of the head what the fused one does not give, whatever was chosen."""
    if is_fused(model):
        fuse(model, False)
        head = "in chunks, as the objective reads more of it than the fused one gives"
        setattr(model, _CHOSEN, replace(chosen(model), head=head))


def choose(
    model: PreTrainedModel,
    resources: Resources,
    to_train: bool = False,
    size: Size | None = None,
    kind: type[Comparison] = Comparison,
) -> Chosen:
    """Give the model the fastest attention, output head and layers that run here and are right.

    Raises UserError where none is right; and on a GPU where a faster one was not taken, with the reason, unless
    `resources.allow_slow_path`. On a GPU gradients and the fused head are looked at where it is `to_train`: what is
    compared is compiled, for tens of seconds, and a scorer needs neither. Of a model that is sharded all workers must
    call it, in a forward of the root. `kind` is what the model is for: log-probs, or another comparison.
    """
    restore_layers(model)  # of a model that was chosen for before
    gpu = model.device.type == "cuda"
    several = dist.is_initialized() and dist.get_world_size() > 1
    with narrow_windows(model, size := size or _size(gpu, to_train)):
        comparison = kind(model, size, must_run=gpu and several and not resources.allow_slow_path)
        attention, why = _choose_attention(comparison)
        head, more = _choose_head(comparison) if gpu and size.trained else (kind.head, [])
        layers, most = _choose_layers(comparison, gpu if resources.compile_layers is None else resources.compile_layers)
    found = Chosen(attention, head, layers, (*why, *more, *most))
    setattr(model, _CHOSEN, found)
    require_fast(found, type(model).__name__, comparison.device.type, resources)
    return found


def _size(gpu: bool, to_train: bool) -> Size:
    if not gpu:
        return SHORT
    return LONG if to_train else SCORED


def require_fast(found: Chosen, name: str, device: str, resources: Resources) -> None:
    """Raise UserError where a model would be slow on a GPU and nobody has allowed it."""
    if device == "cuda" and found.why and not resources.allow_slow_path:
        raise UserError(
            f"{name} would run slower than it might, as {found}",
            "mend what is named, or run it so with resources.allow_slow_path=true",
        )


def _choose_attention(comparison: Comparison) -> tuple[str, list[str]]:
    """The first attention that is right, by name: the packed one, the model's default over padded sides, the eager one.

    Right is what gives the log-probs of the model's own forward and eager attention. The default may not: fused kernels
    leave out what they do not know. And why the ones before it are not.
    """
    model, default = comparison.model, comparison.model.config._attn_implementation
    why: list[str] = []
    for attention in dict.fromkeys((NAME, default, "eager")):
        model.set_attn_implementation(attention)
        if model.config._attn_implementation != attention:  # it has but one, and keeps it
            reason = "has attention of its own"
        elif attention == NAME and turning(model):
            reason = "has rotary embeddings that depend on the longest sequence"
        elif (reason := comparison.fault() or "") == "":
            return _name(attention, model), why
        why.append(f"not {_name(attention, model)}: the model {reason}")
    remedy = "its forward does more than run a decoder and an output head: use another model, such as a Llama"
    raise UserError(f"{type(model).__name__} {reason}", remedy)


def _name(attention: str, model: PreTrainedModel) -> str:
    if attention != NAME:
        return f"{attention} over padded sides"
    return "packed, by FlexAttention" if flexes(model.device) else "packed, a side at a time"


def _choose_head(comparison: Comparison) -> tuple[str, list[str]]:
    """The fused output head where it is right, or the model's own in chunks; and why, where the fused one does not run.

    A head that is no linear layer, or does more to its logits, has its chunks: nothing is amiss.
    """
    model = comparison.model
    if not is_installed():
        return "in chunks", ["not a fused head: Liger-Kernel is not installed"]
    if type(head := model.get_output_embeddings()) is not torch.nn.Linear:
        return f"in chunks, as it is a {type(head).__name__}", []
    if (fault := comparison.fault_of_fused_head()) is None:
        fuse(model, True)
        return "fused, by Liger-Kernel", []
    if fault.startswith(CANNOT):
        return "in chunks", [f"not a fused head: with it the model {fault}"]
    return "in chunks, as it is not the fused one", []


def _choose_layers(comparison: Comparison, wanted: bool) -> tuple[str, list[str]]:
    """Compiled layers where they are wanted and right, or the model's own, and why."""
    if not (wanted and is_packed(comparison.model)):  # sides are padded to any two sizes: for each another graph
        return "as they are", []
    if len(set(getattr(comparison.model, "hf_device_map", {}).values())) > 1:
        return "as they are, over several devices", []
    if not compile_layers(comparison.model):
        return "as they are", ["not compiled layers: the model does not mark its layers as transformers' own do"]
    if (fault := comparison.fault()) is None:
        return "compiled", []
    restore_layers(comparison.model)
    return "as they are", [f"not compiled layers: with them the model {fault}"]
