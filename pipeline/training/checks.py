"""What stops a training run before it goes wrong in silence: another model's reference, a loss that is no number."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.objectives.presets import Preset
from pipeline.training.epoch import Epoch, Example
from pipeline.training.epoch_files import MOST_SOURCES
from pipeline.training.mismatched import Mismatched
from pipeline.training.rows import Rows

# |policy - what is cached of it| of a side, in nats a token, that is rounding at step 0.
PARITY = {torch.float64: 1e-6, torch.float32: 1e-4}
# Two right kernels that sum in other orders round other values to bfloat16: a token's log-prob then moves by about
# TOKEN nats, this way or that, so that a side of n tokens moves by about TOKEN * sqrt(n). What follows is in multiples.
TOKEN = 0.1
SIDE = 20.0  # one side alone
STEP = 5.0  # many sides, by their root mean square; few are allowed more, up to SIDE
MEAN = 4.0  # standard errors of a token's mean, whose sign rounding does not know; and beside them:
BIAS = 2e-3  # nats a token that kernels may differ by on average
# Of a step's features, the root of the squares of what they are off by, over that of their own.
FEATURES, FEATURES_ROUNDED = 0.02, 0.3
LOOKED = 2048  # pairs, at most, spread over the schedule, one of which must teach something


def _scored_apart(example: Example) -> bool:
    chosen, rejected = example.scores
    return chosen is not None and rejected is not None and chosen > rejected


_APART = (
    _scored_apart,
    "no chosen answer is scored better than its rejected one",
    "look at which column holds which score, or choose an objective that needs no scores",
)
# Scales and weights that are 0 of some pairs: what a pair must be to teach, and what is said where none is.
TEACHES: dict[str, tuple[Callable[[Example], bool], str, str]] = {
    "score-certainty": _APART,
    "relative-score-gap": _APART,
    "confidence": (
        lambda example: example.label_confidence != 0.5,
        "label_confidence is 0.5 of all",
        "look at label_confidence, or choose an objective that needs none",
    ),
}


def check_columns(epoch: Epoch, preset: Preset) -> None:
    """Raise UserError where a pair that a preference objective will see lacks what it needs (Preset.needs)."""
    needs = preset.needs
    if missing := set(preset.token_columns) - set(epoch.columns):
        raise ValueError(f"the objective needs {', '.join(sorted(missing))} of each token, which the epoch is not of")
    if "sources" in needs and epoch.sources is None:
        raise UserError(
            f"the objective estimates how often each source's labels are right, and the pairs are of more than "
            f"{MOST_SOURCES:,} sources",
            "name the column that says who labelled a pair in data.columns.source, or choose another objective",
        )
    if "features" in needs and not epoch.has_features:
        raise UserError(
            "the objective looks at features, and the epoch has none of the reference's",
            "python -m jobs.run makes them",
        )
    columns = {"scores": ("chosen_score", "rejected_score"), "label_confidence": ("label_confidence",)}
    for name in needs:
        for column in columns.get(name, ()):
            if pair_id := epoch.first_without(column):
                problem = f"the objective needs {column} of every pair, and pair {pair_id} has none"
                raise UserError(problem, "complete the data, or choose an objective that needs no such column")
    for function in (preset.scale, preset.weight):
        if function in TEACHES:
            _check_taught(epoch, *TEACHES[function])


def _check_taught(epoch: Epoch, teaches: Callable[[Example], bool], otherwise: str, remedy: str) -> None:
    """A stream whose pairs all weigh nothing would end with the model that it began with."""
    for stream in range(len(epoch.streams)):
        pairs = epoch.preference_examples(LOOKED, stream)
        if pairs and not any(map(teaches, pairs)):
            problem = f"the objective would learn nothing of any of {len(pairs):,} pairs that were looked at"
            raise UserError(f"{problem}: {otherwise}", remedy)


def check_parity(rows: Rows, dtype: torch.dtype) -> None:
    """Before anything is learnt the policy is the model it starts from, which is the reference or was scored beside it.

    Raises UserError where its log-probs differ from the cached ones beyond rounding. `rows` are the first step's pairs,
    of all workers. In float32 and float64 each side must agree to PARITY. In bfloat16 a side alone says little (see
    TOKEN): it must not be far off, nor all sides together, nor their mean. Shapes: S pairs that have the side.
    """
    for which, side in enumerate(("chosen", "rejected")):
        known = [i for i, example in enumerate(rows.examples) if not which or example.route == "preference"]
        examples = [rows.examples[i] for i in known]
        cached_S = torch.tensor([example.untrained[which] for example in examples], dtype=torch.float64)
        tokens_S = torch.tensor([example.counts[which] for example in examples], dtype=torch.float64)
        off_S = rows.columns[f"{side}_logps"][known] - cached_S
        _check_side([example.pair_id for example in examples], side, off_S, tokens_S, dtype)


def check_mismatched(step: Sequence[Mismatched], logps_M: torch.Tensor, dtype: torch.dtype) -> None:
    """The same of the first step's mismatched answers, whose log-probs the policy, before it learnt, gives as [M].

    Nothing is checked where training starts from another model than the reference, of which alone they are cached.
    """
    if _starts_elsewhere([each.prompt for each in step]):
        return
    cached_M = torch.tensor([each.prompt.mismatched for each in step], dtype=torch.float64)
    tokens_M = torch.tensor([each.length for each in step], dtype=torch.float64)
    _check_side([each.prompt.pair_id for each in step], "mismatched", logps_M - cached_M, tokens_M, dtype)


def _check_side(pair_ids: Sequence[str], side: str, off_S: torch.Tensor, tokens_S: torch.Tensor, dtype: Any) -> None:
    strict = dtype in PARITY
    allowed_S = PARITY[dtype] * tokens_S if strict else SIDE * TOKEN * tokens_S.sqrt()
    for i in (~(off_S.abs() <= allowed_S)).nonzero().flatten().tolist():  # also where it is no number
        what = f"pair {pair_ids[i]}: at step 0 the policy's {side} log-prob"
        raise _differ(what, float(off_S[i] / tokens_S[i]), float(allowed_S[i] / tokens_S[i]))
    if pair_ids and not strict:
        _check_together(f"the policy's {side} log-probs of {len(pair_ids)} pairs", off_S, tokens_S)


def _check_together(what: str, off_S: torch.Tensor, tokens_S: torch.Tensor) -> None:
    sides, tokens = len(off_S), float(tokens_S.sum())
    spread = float((off_S.square() / tokens_S).mean().sqrt())  # of a token, were tokens independent
    rounding = TOKEN * (STEP + (SIDE - STEP) / math.sqrt(sides))
    if spread > rounding:
        raise _differ(f"at step 0 the spread of {what}", spread, rounding)
    mean, rounding = float(off_S.sum()) / tokens, BIAS + MEAN * spread / math.sqrt(tokens)
    if abs(mean) > rounding:
        raise _differ(f"at step 0 the mean of {what}", mean, rounding)


def _differ(what: str, off: float, rounding: float) -> UserError:
    return UserError(
        f"{what} is {abs(off):.2g} nats a token from the cached reference; {rounding:.2g} would be rounding",
        "the reference is of another model or compute path: python -m jobs.run --force reference, and --force weigh "
        "where the line has that stage",
    )


def _starts_elsewhere(examples: Sequence[Example]) -> bool:
    """Whether training starts from another model than the reference, which has scored both apart."""
    return any(example.untrained != example.reference for example in examples)


def check_features(rows: Rows, dtype: torch.dtype) -> None:
    """The same of features: the strongest of all sides together, by their squares.

    A feature that is 0 below a threshold may be 0 in one of two right computations alone, so that a side says little.
    What has moved is not checked where training starts from another model than the reference, of which alone they are
    cached.
    """
    size, change = (float(rows.columns[name].sum()) for name in ("feature_size", "feature_change"))
    allowed = FEATURES if dtype in PARITY else FEATURES_ROUNDED
    if not size:
        raise UserError(
            "no feature of any completion of the first step is other than 0",
            "give an autoencoder that was made for the model (features.source), or train one for longer",
        )
    if not change <= allowed**2 * size and not _starts_elsewhere(rows.examples):
        off = math.sqrt(change / size)
        raise UserError(
            f"at step 0 the policy's features are {off:.2g} of their size from the cached ones; {allowed:g} would be "
            "rounding",
            "the cache is of another model, layer or autoencoder: python -m jobs.run --force reference",
        )


def check_finite(rows: Rows, step: int) -> None:
    """`rows` are the step's pairs, all workers. Raises UserError that names those whose loss or gap is not a number."""
    if bad := rows.without_numbers():
        raise _no_number(step, "loss or the gap", bad, "")


def check_gradient(norm: float, rows: Rows, step: int) -> None:
    """Raise UserError where the gradient of a step is no finite number: the update has spoilt the weights with it."""
    if not math.isfinite(norm):
        raise _no_number(step, "gradient", [example.pair_id for example in rows.examples], ", though every loss is")


def _no_number(step: int, what: str, pair_ids: Sequence[str], though: str) -> UserError:
    return UserError(
        f"step {step}: the {what} of {len(pair_ids)} pairs is not finite ({', '.join(pair_ids[:5])}){though}",
        "lower train.learning_rate, or look at these pairs; the newest checkpoint is from before",
    )
