"""How a loaded model is run, found out before anything is computed with it: by comparing with its own plain forward.

A model may run attention of its own beside transformers' interface, carry a state from token to token, or add to
attention what the packed one does not know; it would then see other pairs of the pack, or score otherwise. A kernel may
not compile here, or be wrong. All of it would train silently wrong, or slowly. So each way is tried, fastest first, and
what was chosen is kept with the model, beside what is faster and why it was not taken.

Shapes: N completion tokens, C hidden size, T tokens of the check's pack.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from pipeline.compute.attention import NAME, is_packed
from pipeline.compute.fused_head import fuse, why_not_fused
from pipeline.compute.layers import compile_layers, restore_layers
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import token_logps, turning
from pipeline.errors import UserError
from pipeline.settings.config import Resources

# Mean |difference| in nats a token that is rounding, by dtype of the weights; what is looked for is far larger. In
# bfloat16 a mixture of experts sends a token elsewhere for less than this.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 1e-1}
# The same of gradients: the norm of their difference over their norm.
_GRADIENTS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.3}
# Largest |difference| where only what must not be seen is changed: nothing else is, so this needs no room for rounding.
_LEAK = 1e-3
_WINDOWS = ("sliding_window", "attention_chunk_size")
_PULL = (1.0, -0.5, 0.25, 2.0)  # of each side's tokens in the sum whose gradient is looked at
_CHOSEN = "_widemargin_chosen"


class Size(NamedTuple):
    """The check's two pairs: the lengths of their six parts, and the window that attention is narrowed to."""

    parts: tuple[int, int, int, int, int, int]
    window: int
    trained: bool  # whether it is run as in training, too: with gradients, and in train mode


SHORT = Size((4, 4, 4, 4, 4, 4), 3, trained=False)
# Uneven parts over several blocks of FlexAttention's mask, so that the kernels are those of training.
LONG = Size((150, 77, 131, 60, 5, 93), 100, trained=True)


@dataclass(frozen=True)
class Chosen:
    """How a model is run, in words, and for each faster way why it was not taken."""

    attention: str
    head: str
    layers: str
    why: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((f"attention {self.attention}, head {self.head}, layers {self.layers}", *self.why))

    def record(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self) | {"why": list(self.why)}


def chosen(model: PreTrainedModel) -> Chosen:
    """How a loaded model is run; as it is by itself where nothing was chosen."""
    found: Chosen = getattr(model, _CHOSEN, Chosen(str(model.config._attn_implementation), "its own", "as they are"))
    return found


def choose(model: PreTrainedModel, resources: Resources, size: Size | None = None) -> Chosen:
    """Give the model the fastest attention, output head and layers that run here and are right.

    Raises UserError where none is right; and on a GPU where a faster one was not taken, with the reason, unless
    `resources.allow_slow_path`. Of a model that is sharded all workers must call it, in a forward of the root.
    """
    gpu = model.device.type == "cuda"
    with _narrow_windows(model, size := size or (LONG if gpu else SHORT)):
        check = _Check(model, size)
        attention, why = _choose_attention(check)
        head, more = _choose_head(check) if gpu else ("in chunks", [])
        layers, most = _choose_layers(check, gpu if resources.compile_layers is None else resources.compile_layers)
    found = Chosen(attention, head, layers, (*why, *more, *most))
    setattr(model, _CHOSEN, found)
    require_fast(found, type(model).__name__, model.device.type, resources)
    return found


def require_fast(found: Chosen, name: str, device: str, resources: Resources) -> None:
    """Raise UserError where a model would be slow on a GPU and nobody has allowed it."""
    if device == "cuda" and found.why and not resources.allow_slow_path:
        raise UserError(
            f"{name} would run slower than it might, as {found}",
            "mend what is named, or run it so with resources.allow_slow_path=true",
        )


def _choose_attention(check: "_Check") -> tuple[str, list[str]]:
    """The first attention that is right, by name: the packed one, the model's default over padded sides, the eager one.

    Right is what gives the log-probs of the model's own forward and eager attention. The default may not: fused kernels
    leave out what they do not know. And why the ones before it are not.
    """
    model, why = check.model, []
    default = model.config._attn_implementation
    for attention in dict.fromkeys((NAME, default, "eager")):
        model.set_attn_implementation(attention)  # changes nothing where the model has but one
        if model.config._attn_implementation != attention:
            continue
        if attention == NAME and turning(model):
            reason = "has rotary embeddings that depend on the longest sequence"
        else:
            reason = check.fault() or ""
        if not reason:
            return _name(attention, model), why
        why.append(f"not {_name(attention, model)}: the model {reason}")
    remedy = "its forward does more than run a decoder and an output head: use another model, such as a Llama"
    raise UserError(f"{type(model).__name__} {reason}", remedy)


def _name(attention: str, model: PreTrainedModel) -> str:
    if attention != NAME:
        return f"{attention} over padded sides"
    return "packed, by FlexAttention" if model.device.type == "cuda" else "packed, a side at a time"


def _choose_head(check: "_Check") -> tuple[str, list[str]]:
    """The fused output head where it runs and is right, or the model's own in chunks, and why."""
    reason = why_not_fused(check.model)
    if reason is None:
        fuse(check.model, True)
        if (fault := check.fault()) is None:
            return "fused, by Liger-Kernel", []
        fuse(check.model, False)
        reason = f"with it the model {fault}"
    return "in chunks", [f"not a fused head: {reason}"]


def _choose_layers(check: "_Check", wanted: bool) -> tuple[str, list[str]]:
    """Compiled layers where they are wanted and right, or the model's own, and why."""
    if not (wanted and is_packed(check.model)):  # sides are padded to any two sizes: for each another graph
        return "as they are", []
    if len(set(getattr(check.model, "hf_device_map", {}).values())) > 1:
        return "as they are, over several devices", []
    compile_layers(check.model)
    if (fault := check.fault()) is None:
        return "compiled", []
    restore_layers(check.model)
    return "as they are", [f"not compiled layers: with them the model {fault}"]


class _Check:
    """Two pairs, and what is right for them: each side by the model's own forward and eager attention."""

    def __init__(self, model: PreTrainedModel, size: Size):
        self.model, self.dtype = model, next(model.parameters()).dtype
        # Within a forward of sharded weights there can be no backward.
        self.trained = size.trained and not any(isinstance(module, FSDPModule) for module in model.modules())
        self.vocabulary = model.config.get_text_config().vocab_size
        ids = iter([(7919 * i + 13) % self.vocabulary for i in range(sum(size.parts))])
        self.parts = [[next(ids) for _ in range(length)] for length in size.parts]
        default = model.config._attn_implementation
        model.set_attn_implementation("eager")
        self.right = self._by_side()
        model.set_attn_implementation(default)
        if not self.right.logps_N.isfinite().all():
            remedy = "its weights are spoilt or too large for model.dtype: fetch them again, or try model.dtype=float32"
            raise UserError(f"{type(model).__name__} gives log-probs that are no finite numbers", remedy)

    def fault(self) -> str | None:
        """What is wrong with the model as it is set now, in words that follow its name; None where it is right."""
        try:
            if self.trained and is_packed(self.model):
                self._in_training()
            found = self._packed(_PULL)
            leak = self._leak(found)
        except torch.OutOfMemoryError:  # no fault of what was tried
            raise
        except Exception as error:  # every family, compiler and driver has its own way to fail
            return f"cannot be scored ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        off = float((found.logps_N - self.right.logps_N).abs().mean())
        if not off <= _TOLERANCE[self.dtype]:  # nor is it, where it is not a number
            return f"scores a completion {off:.2g} nats a token otherwise than its own forward does"
        if not leak <= self._leakage():
            return f"lets a completion see what it must not (by {leak:.2g})"
        if found.gradient_TC is not None and self.right.gradient_TC is not None:
            off = float((found.gradient_TC - self.right.gradient_TC).norm() / self.right.gradient_TC.norm())
            if not off <= _GRADIENTS[self.dtype]:
                return f"has gradients {off:.2g} of their norm off those of its own forward"
        return None

    def _packed(self, pull: Sequence[float]) -> "_Measured":
        a, b, c, d, e, f = self.parts
        found = self._measured(lambda: self._scored(Tokens(a, b, c), Tokens(d, e, f)), pull, (b, c, e, f))
        tokens = sum(map(len, self.parts))
        return found._replace(gradient_TC=None if found.gradient_TC is None else found.gradient_TC[:tokens])

    def _by_side(self) -> "_Measured":
        """The same by a forward a side, of the model as a user would call it."""
        sides, gradients = [], []
        for pair in (self.parts[:3], self.parts[3:]):
            prompt, completions = pair[0], pair[1:]
            both = []
            for completion in completions:
                pull = _PULL[len(sides)]
                sides.append(self._measured(lambda p=prompt, c=completion: self._alone(p, c), (pull,), (completion,)))
                both.append(sides[-1].gradient_TC)
            if both[0] is not None and both[1] is not None:
                gradients += [both[0][: len(prompt)] + both[1][: len(prompt)], *(each[len(prompt) :] for each in both)]
        return _Measured(torch.cat([side.logps_N for side in sides]), torch.cat(gradients) if gradients else None)

    def _measured(
        self, logps: Callable[[], torch.Tensor], pull: Sequence[float], sides: Sequence[Sequence[int]]
    ) -> "_Measured":
        """What `logps` gives, and where training is looked at its gradient; each side is pulled at as `pull` says."""
        if not self.trained:
            with torch.no_grad():  # not inference mode: a buffer the forward renews there could not be trained with
                return _Measured(logps(), None)
        embedded: list[torch.Tensor] = []

        def leaf(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
            embedded.append(output.detach().requires_grad_())
            return embedded[-1]

        hook = self.model.get_input_embeddings().register_forward_hook(leaf)
        try:
            with torch.enable_grad():
                logps_N = logps()
            weights_N = torch.tensor([each for each, side in zip(pull, sides, strict=True) for _ in side])
            (gradient_1TC,) = torch.autograd.grad(logps_N, embedded, weights_N.to(logps_N))
        finally:
            hook.remove()
        return _Measured(logps_N.detach(), gradient_1TC.flatten(0, 1).float())

    def _leak(self, found: "_Measured") -> float:
        """How far the last side depends on what it must not see: the first pair, and its sibling.

        By its gradient, which must be zero there; or by the log-probs with other tokens there.
        """
        a, b, c, d, e, f = self.parts
        if self.trained and is_packed(self.model):
            *before, own, sibling, last = self._packed((0.0, 0.0, 0.0, 1.0)).gradient_TC.split([*map(len, self.parts)])
            return float(torch.cat((*before, sibling)).norm() / torch.cat((own, last)).norm())
        a, b, c, e = ([self.vocabulary - 1 - token for token in part] for part in (a, b, c, e))
        with torch.no_grad():
            other_N = self._scored(Tokens(a, b, c), Tokens(d, e, f))
        return float((other_N - found.logps_N)[-len(f) :].abs().max())

    def _leakage(self) -> float:
        """Where nothing else is changed nothing is rounded otherwise, but on a GPU where experts get more tokens."""
        by_gradient = self.trained and is_packed(self.model)
        return _LEAK if by_gradient or self.model.device.type == "cpu" else _TOLERANCE[self.dtype]

    def _in_training(self) -> None:
        """Raises what only train mode does, such as that a kernel has no dropout."""
        self.model.train()
        try:
            with torch.no_grad():
                self._scored(Tokens(*self.parts[:3]), Tokens(*self.parts[3:]))
        finally:
            self.model.eval()

    def _scored(self, *pairs: Tokens) -> torch.Tensor:
        pack = lay_out(pairs, self.model.device)
        return token_logps(self.model, pack, chunk=max(1, len(pack.target_N) // 4))

    def _alone(self, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
        """The completion's log-probs, in nats, by the model's own forward over nothing else."""
        ids = torch.tensor([[*prompt, *completion]], device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None].to(logits.device))[:, 0]


class _Measured(NamedTuple):
    logps_N: torch.Tensor
    gradient_TC: torch.Tensor | None  # of a weighted sum of them, to the embedded tokens


@contextmanager
def _narrow_windows(model: PreTrainedModel, size: Size) -> Iterator[None]:
    """Attention windows of fewer tokens than the check has, so that it sees whether they are honoured."""
    places = [model.config.get_text_config(), *model.modules()]
    wide = [(place, name, getattr(place, name, None)) for place in places for name in _WINDOWS]
    wide = [(place, name, width) for place, name, width in wide if isinstance(width, int) and width > size.window]
    for place, name, _ in wide:
        setattr(place, name, size.window)
    try:
        yield
    finally:
        for place, name, width in wide:
            setattr(place, name, width)
