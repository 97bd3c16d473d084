"""Whether a model, as it is set, gives what its own plain forward gives: log-probs, gradients, and no sight of others.

Shapes: N completion tokens, C hidden size, T tokens of the pack.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from pipeline.compute.attention import is_packed
from pipeline.compute.fused_head import fused_logps
from pipeline.compute.layout import Pack, Tokens, lay_out
from pipeline.compute.logprobs import head_logps, hidden_states, token_logps
from pipeline.errors import UserError, out_of_memory

# Mean |difference| in nats a token that is rounding, by dtype of the weights; what is looked for is far larger. In
# bfloat16 a mixture of experts sends a token elsewhere for less than this.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 1e-1}
# The same of gradients: the norm of their difference over their norm.
_GRADIENTS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.3}
_OF_STATES = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 0.05}  # where an output head alone differs
# Largest |difference| where only what must not be seen is changed: nothing else is, so this needs no room for rounding.
_LEAK = 1e-3
_WINDOWS = ("sliding_window", "attention_chunk_size")
CANNOT = "cannot be scored"  # how a fault begins that is no figure
_PULL = (1.0, -0.5, 0.25, 2.0)  # of each side's tokens in the sum whose gradient is looked at


class Size(NamedTuple):
    """The check's two pairs: the lengths of their six parts, and the window that attention is narrowed to."""

    parts: tuple[int, int, int, int, int, int]
    window: int
    trained: bool  # whether it is run as in training, too: with gradients, and in train mode


SHORT = Size((4, 4, 4, 4, 4, 4), 3, trained=False)
# Uneven parts over several blocks of FlexAttention's mask, so that the kernels are those of training.
LONG = Size((150, 77, 131, 60, 5, 93), 100, trained=True)
SCORED = LONG._replace(trained=False)  # for a model that is scored with and not trained


class Measured(NamedTuple):
    logps_N: torch.Tensor
    gradient_TC: torch.Tensor | None  # of a weighted sum of them, to the embedded tokens; None where not looked at


class Comparison:
    """Two pairs, and what is right for them: each side by the model's own forward and eager attention."""

    head = "in chunks"  # the output head that is compared, unless a fused one is

    def __init__(self, model: PreTrainedModel, size: Size, must_run: bool = False):
        """With `must_run` what cannot be scored is a UserError: other workers would wait for the rest of a forward."""
        self.model, self.dtype = model, next(model.parameters()).dtype
        self.device = model.device  # of weights that are sharded and lie on the host it is another after a gradient
        self.must_run = must_run
        self.trained = size.trained  # of a model that is sharded, too: see Policy.within
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
        return _agreed(self._fault())

    def fault_of_fused_head(self) -> str | None:
        """The same of the fused head, which is for training, against the model's own on the same states.

        By itself, since it is not run where no gradient is taken, as in the check of what is not packed; and since what
        bfloat16 makes of the layers below would hide much.
        """
        return _agreed(self._fault_of_fused_head())

    def _fault(self) -> str | None:
        try:
            with self._as_trained():
                found = self._packed(_PULL)
                leak = self._leak(found)
        except Exception as error:  # every family, compiler and driver has its own way to fail
            return self._cannot(error)
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

    def _fault_of_fused_head(self) -> str | None:
        try:
            pack = lay_out((Tokens(*self.parts[:3]), Tokens(*self.parts[3:])), self.device)
            with torch.no_grad():
                hidden_NC, kind = hidden_states(self.model, pack)
            logps_N, *gradients = self._of_head(hidden_NC, pack, partial(head_logps, self.model, kind))
            in_two = partial(fused_logps, self.model, chunk=len(pack.target_N) // 2)
            fused_N, *fused = self._of_head(hidden_NC, pack, in_two)
        except Exception as error:
            return self._cannot(error)
        off = float((fused_N - logps_N).abs().mean())
        of_gradients = max(float((a - b).norm() / b.norm()) for a, b in zip(fused, gradients, strict=True))
        if not off <= _TOLERANCE[self.dtype] or not of_gradients <= _OF_STATES[self.dtype]:
            return f"scores {off:.2g} nats a token otherwise, and has gradients {of_gradients:.2g} of their norm off"
        return None

    def _of_head(
        self, hidden_NC: torch.Tensor, pack: Pack, logps: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Log-probs; and the gradients of a weighted sum of them, to the states and to the targets' weights."""
        leaf_NC, weight_VC = hidden_NC.detach().clone().requires_grad_(), self.model.get_output_embeddings().weight
        with torch.enable_grad():
            logps_N = logps(leaf_NC, pack.target_N)
        asked = [leaf_NC, *([weight_VC] if weight_VC.requires_grad else [])]  # adapters leave it as it is
        of_states_NC, *of_weights = torch.autograd.grad(
            logps_N, asked, torch.linspace(0.25, 2.0, len(logps_N)).to(logps_N)
        )
        rows = pack.target_N.to(weight_VC.device).unique()
        return [logps_N.detach(), of_states_NC.float(), *(each_VC[rows].float() for each_VC in of_weights)]

    def _cannot(self, error: Exception) -> str:
        """Why what was tried does not run, in words that follow the model's name."""
        if out_of_memory(error):  # no fault of what was tried
            raise error
        while error.__cause__ is not None:  # a compiler's says little of what it met
            error = error.__cause__  # type: ignore[assignment]
        why = f"{CANNOT} ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        if self.must_run:
            remedy = "mend what is named, or run it by what is slower with resources.allow_slow_path=true"
            raise UserError(f"{type(self.model).__name__} {why}", remedy) from None
        return why

    def _packed(self, pull: Sequence[float]) -> Measured:
        a, b, c, d, e, f = self.parts
        looked = pull if self.trained and is_packed(self.model) else None  # rows of padded sides are no pack
        found = self._measured(lambda: self._scored(Tokens(a, b, c), Tokens(d, e, f)), looked, (b, c, e, f))
        tokens = sum(map(len, self.parts))
        return found._replace(gradient_TC=None if found.gradient_TC is None else found.gradient_TC[:tokens])

    def _by_side(self) -> Measured:
        """The same by a forward a side, of the model as a user would call it."""
        a, b, c, d, e, f = self.parts
        sides = [
            self._measured(partial(self._alone, prompt, completion), (pull,) if self.trained else None, (completion,))
            for (prompt, completion), pull in zip(((a, b), (a, c), (d, e), (d, f)), _PULL, strict=True)
        ]
        logps_N = torch.cat([side.logps_N for side in sides])
        gradients = [side.gradient_TC for side in sides if side.gradient_TC is not None]
        if not gradients:
            return Measured(logps_N, None)
        (a1, b1), (a2, c1), (d1, e1), (d2, f1) = (
            (of_side[: len(prompt)], of_side[len(prompt) :])
            for of_side, prompt in zip(gradients, (a, a, d, d), strict=True)
        )
        return Measured(logps_N, torch.cat((a1 + a2, b1, c1, d1 + d2, e1, f1)))

    def _measured(
        self, logps: Callable[[], torch.Tensor], pull: Sequence[float] | None, sides: Sequence[Sequence[int]]
    ) -> Measured:
        """What `logps` gives, and the gradient of their sum in which each side counts as `pull` says, if it does."""
        if pull is None:
            with torch.no_grad():  # not inference mode: a buffer the forward renews there could not be trained with
                return Measured(logps(), None)
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
        return Measured(logps_N.detach(), gradient_1TC.flatten(0, 1).float())

    def _leak(self, found: Measured) -> float:
        """How far the last side depends on what it must not see: the first pair, and its sibling.

        By its gradient, which must be zero there; or by the log-probs with other tokens there.
        """
        a, b, c, d, e, f = self.parts
        gradient_TC = None if found.gradient_TC is None else self._packed((0.0, 0.0, 0.0, 1.0)).gradient_TC
        if gradient_TC is not None:
            *before, own, sibling, last = gradient_TC.split([*map(len, self.parts)])
            return float(torch.cat((*before, sibling)).norm() / torch.cat((own, last)).norm())
        a, b, c, e = ([self.vocabulary - 1 - token for token in part] for part in (a, b, c, e))
        with torch.no_grad():
            other_N = self._scored(Tokens(a, b, c), Tokens(d, e, f))
        return float((other_N - found.logps_N)[-len(f) :].abs().max())

    def _leakage(self) -> float:
        """Where nothing else is changed nothing is rounded otherwise, but on a GPU where experts get more tokens."""
        by_gradient = self.trained and is_packed(self.model)
        return _LEAK if by_gradient or self.device.type == "cpu" else _TOLERANCE[self.dtype]

    @contextmanager
    def _as_trained(self) -> Iterator[None]:
        """In train mode, which may raise what eval mode does not, such as that a kernel has no dropout.

        What draws at random there is only run so, and compared in eval mode: all that is compiled is compiled twice.
        """
        if not (self.trained and is_packed(self.model)):
            yield
            return
        self.model.train()
        try:
            if _draws(self.model):
                with torch.no_grad():
                    self._scored(Tokens(*self.parts[:3]), Tokens(*self.parts[3:]))
                self.model.eval()
            yield
        finally:
            self.model.eval()

    def _scored(self, *pairs: Tokens) -> torch.Tensor:
        pack = lay_out(pairs, self.device)
        return token_logps(self.model, pack, chunk=max(1, len(pack.target_N) // 4))

    def _alone(self, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
        """The completion's log-probs, in nats, by the model's own forward over nothing else."""
        ids = torch.tensor([[*prompt, *completion]], device=self.device)
        logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        return logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None].to(logits.device))[:, 0]


def _agreed(fault: str | None) -> str | None:
    """The first worker's that found one: workers that ran a sharded model in two ways would wait for each other."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return fault
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, fault)
    return next(filter(None, found), None)


def _draws(model: PreTrainedModel) -> bool:
    """Whether train mode may draw: a dropout, or noise at the routers of experts, that is not 0."""
    known = [*map(vars, model.modules()), vars(model.config.get_text_config())]
    known += [{"dropout": module.p} for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    named = ((name, value) for each in known for name, value in each.items() if "drop" in name or "jitter" in name)
    return any(isinstance(value, float | int) and value != 0 for _, value in named)


@contextmanager
def narrow_windows(model: PreTrainedModel, size: Size) -> Iterator[None]:
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
