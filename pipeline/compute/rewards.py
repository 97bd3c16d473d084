"""Rewards of whole conversations by a reward model: a decoder over a pack, and a classification head on last tokens.

The path is that of log-probs (logprobs.py): conversations that begin alike, such as two answers to one prompt, are laid
out as the sides of a pair, so that what they share is computed once. Nothing is padded, so that a reward depends on its
own conversation alone; and what is read is where the last token stands, whatever its id.

Shapes: S conversations of a pack, C hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from pipeline.compute.comparison import Comparison, Size
from pipeline.compute.layout import Pack, Tokens, lay_out
from pipeline.compute.limits import weight_files
from pipeline.compute.logprobs import computing, hidden_states
from pipeline.compute.models import make_ready, open_whole
from pipeline.compute.packing import plan
from pipeline.compute.scoring import Lanes
from pipeline.errors import UserError
from pipeline.settings.resources import Resources

# |difference| over the largest reward that is rounding, by dtype of the decoder; what is looked for is far larger.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.1}
_NO_TOKEN = -1  # the id of padding: none that could be met


@dataclass(frozen=True)
class Rewards:
    """What was computed of some conversations."""

    values: list[float]  # in their order; one may be no finite number
    tokens: int  # packed: what conversations share counts once
    packs: int


class Pair(NamedTuple):
    """One conversation, or two that begin alike, as a pack takes them; and their places among all."""

    tokens: Tokens
    places: tuple[int, ...]


def load_reward_model(
    folder: Path,
    dtype: str,
    device: str = "cpu",
    *,
    trust_remote_code: bool = False,
    resources: Resources = Resources(),  # noqa: B008 - frozen
) -> PreTrainedModel:
    """A model that AutoModelForSequenceClassification opens, with one label, run over packs where it can be.

    `device` is a torch device, or "auto": laid over all GPUs in sight. Its head computes in float32 at least. Raises
    UserError where it cannot be opened, lacks weights such as those of a head, has several labels, gives no finite
    numbers, or rewards otherwise than by its own forward; where memory runs out, what says so comes through.
    """
    model = open_classifier(folder, dtype, device, trust_remote_code)
    if (labels := model.config.num_labels) != 1:
        raise UserError(
            f"the reward model in {folder} has {labels} labels, and a reward is one number",
            "give a model with one label (num_labels=1 in its config.json), such as are trained on preference pairs",
        )
    _require_whole_head(folder, model)
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = _NO_TOKEN  # its own forward, too, then reads the last token, be it an end of text
    make_ready(model, resources, kind=RewardComparison)
    inside = {id(weight) for weight in model.get_decoder().parameters()}
    for weight in model.parameters():
        if id(weight) not in inside:  # in bfloat16 rewards of 20 would be 0.125 apart
            weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
    return model


def _require_whole_head(folder: Path, model: PreTrainedModel) -> None:
    """Raise UserError where the files hold more of a head than the model's class computes, such as a bias."""
    inside = {id(weight) for weight in model.get_decoder().parameters()}
    names = (name for name, weight in model.named_parameters() if id(weight) not in inside)
    heads = {name.partition(".")[0] for name in names} - {model.base_model_prefix}
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in weight_files(folder)]
        held = {name for file in files for name in file.keys()}  # noqa: SIM118 - no dictionary
    more = sorted(name for name in held - model.state_dict().keys() if name.partition(".")[0] in heads)
    if more:
        raise UserError(
            f"the model in {folder} holds more of a head ({', '.join(more[:3])}) than {type(model).__name__} has",
            "give one with a head of one matrix; one that has a head of its own rates by code of its own (kind: armo)",
        )


def open_classifier(folder: Path, dtype: str, device: str, trust_remote_code: bool) -> PreTrainedModel:
    """In eval mode, whatever its head. Raises UserError; see `load_reward_model`."""
    from transformers import AutoModelForSequenceClassification

    wanted = "a reward model that AutoModelForSequenceClassification opens"
    return open_whole(AutoModelForSequenceClassification, folder, dtype, device, trust_remote_code, wanted).eval()


def rewards(
    model: PreTrainedModel, conversations: Sequence[Sequence[int]], budget: int, lanes: Lanes | None = None
) -> Rewards:
    """The reward of each conversation of two tokens or more, at most `budget` packed tokens a forward.

    Raises UserError where one alone exceeds the budget.
    """
    if not conversations:
        return Rewards([], 0, 0)
    pairs = list(_paired(conversations, budget))
    (packs,) = plan([pair.tokens.packed for pair in pairs], budget, "resources.score_tokens")
    lanes, found = lanes or Lanes(model), []
    for number, pack in enumerate(packs):
        with lanes.lane(number):
            found.append(_rewards(model, [pairs[index].tokens for index in pack]))
    lanes.wait()
    places = [place for pack in packs for index in pack for place in pairs[index].places]
    placed = dict(zip(places, torch.cat(found).tolist(), strict=True))
    tokens = sum(pair.tokens.packed for pair in pairs)
    return Rewards([placed[place] for place in range(len(conversations))], tokens, len(packs))


def _paired(conversations: Sequence[Sequence[int]], budget: int) -> Iterator[Pair]:
    """Neighbours in the order of their ids share most: they are put together where they share anything."""
    order = sorted(range(len(conversations)), key=lambda place: list(conversations[place]))
    at = 0
    while at < len(order):
        one = list(conversations[order[at]])
        if len(one) < 2:
            raise ValueError(f"conversation {order[at]} has {len(one)} tokens")
        if at + 1 < len(order):
            other = list(conversations[order[at + 1]])
            differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
            shared = next(differ, min(len(one), len(other)) - 1)  # a last token of each is left to its side
            together = Tokens(one[:shared], one[shared:], other[shared:])
            if shared and together.packed <= budget:
                yield Pair(together, (order[at], order[at + 1]))
                at += 2
                continue
        yield Pair(Tokens(one[:-1], one[-1:], ()), (order[at],))
        at += 1


@torch.no_grad()  # not inference mode; see logprobs.score
def _rewards(model: PreTrainedModel, pairs: Sequence[Tokens]) -> torch.Tensor:
    """[S], at the last tokens of the sides there are, where the model's head lies; a GPU is not waited for."""
    pack = _of_last_tokens(lay_out(pairs), pairs)
    pack = (pack.pinned() if model.device.type == "cuda" else pack).on(model.device)
    hidden_SC, kind = hidden_states(model, pack)
    return _head(model, kind, hidden_SC, pack.target_N)


def _of_last_tokens(pack: Pack, pairs: Sequence[Tokens]) -> Pack:
    """The pack of which the states at last tokens are wanted, in place of those that predict tokens."""
    sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    lengths = torch.tensor([[len(part) for part in pair] for pair in pairs]).flatten()
    last_S = (lengths.cumsum(0) - 1).view(-1, 3)[:, 1:].flatten()
    there = torch.tensor([len(side) > 0 for side in sides])
    last_S, side_S = last_S[there], torch.arange(len(sides))[there]
    token_S = torch.tensor([side[-1] for side in sides if side])
    assert torch.equal(pack.ids_T[last_S], token_S)
    return replace(pack, source_N=last_S, target_N=token_S, side_N=side_S)


def _head(
    model: PreTrainedModel, kind: type[ModelOutput], hidden_SC: torch.Tensor, token_S: torch.Tensor
) -> torch.Tensor:
    """[S] float64, by the model's own forward over rows of one token, its decoder standing aside."""
    inside = {id(weight) for weight in model.get_decoder().parameters()}
    weight = next(each for each in model.parameters() if id(each) not in inside)
    output = kind(last_hidden_state=hidden_SC[:, None].to(weight.device, weight.dtype))
    with computing(model.get_decoder(), lambda *_, **__: output):
        logits_S1 = model(input_ids=token_S[:, None], use_cache=False).logits
    return logits_S1.squeeze(1).double()  # type: ignore[no-any-return]


class RewardComparison(Comparison):
    """Four conversations, and what is right for them: the model's own forward of each alone, with eager attention."""

    head = "one label on the last token, in float32"

    def __init__(self, model: PreTrainedModel, size: Size, must_run: bool = False):
        self.model, self.dtype, self.device = model, next(model.parameters()).dtype, model.device
        self.trained = self.must_run = False
        vocabulary = model.config.get_text_config().vocab_size
        ids = iter([(7919 * i + 13) % vocabulary for i in range(sum(size.parts))])
        a, b, c, d, e, f = ([next(ids) for _ in range(length)] for length in size.parts)
        b, f = b[:-1], f[:-2]  # of several lengths: where rows are padded, a model that sees padding is told by it
        self.pairs = [Tokens(a, b, c), Tokens(d, e, f)]
        a, b, c, e = ([vocabulary - 1 - token for token in part] for part in (a, b, c, e))
        self.others = [Tokens(a, b, c), Tokens(d, e, f)]  # of which the last is what it was
        default = model.config._attn_implementation
        sides = [[*pair.prompt, *side] for pair in self.pairs for side in (pair.chosen, pair.rejected)]
        try:
            model.set_attn_implementation("eager")
            with torch.no_grad():
                right = [model(torch.tensor([side], device=self.device), use_cache=False).logits[0] for side in sides]
            model.set_attn_implementation(default)
        except Exception as error:  # of any kind, by code of any model
            remedy = "give a decoder with one label on its last token, such as a LlamaForSequenceClassification"
            raise UserError(f"{type(model).__name__} {self._cannot(error)}", remedy) from error
        self.rewards_S = torch.cat(right).double()
        if not self.rewards_S.isfinite().all():
            remedy = "its weights are spoilt or too large for the rater's dtype: fetch them again, or try float32"
            raise UserError(f"{type(model).__name__} gives rewards that are no finite numbers", remedy)

    def fault(self) -> str | None:
        """What is wrong with the model as it is set now, in words that follow its name; None where it is right."""
        try:
            found_S, beside_S = (_rewards(self.model, pairs) for pairs in (self.pairs, self.others))
        except Exception as error:  # every family, compiler and driver has its own way to fail
            return self._cannot(error)
        room = _TOLERANCE[self.dtype] * float(self.rewards_S.abs().max())
        off = float((found_S - self.rewards_S.to(found_S.device)).abs().max())
        if not off <= room:
            return f"rewards a conversation by {off:.2g} otherwise than its own forward does"
        leak = float((found_S - beside_S)[-1].abs())
        return None if leak <= room else f"lets a conversation see what it must not (by {leak:.2g})"
