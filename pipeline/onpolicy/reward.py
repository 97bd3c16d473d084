"""Reward models as raters: conversations by the model's own template, and what the model gives for each."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pipeline.compute.limits import Limits
from pipeline.compute.rewards import load_reward_model, open_classifier, rewards
from pipeline.compute.scoring import Lanes
from pipeline.compute.selfcheck import chosen
from pipeline.errors import UserError
from pipeline.onpolicy.ratings import Row, Verdict
from pipeline.preferences.conversations import Conversations
from pipeline.preferences.messages import Dropped, said
from pipeline.preferences.tokenise import TokenisedPair, open_tokeniser
from pipeline.settings.inputs import Model
from pipeline.settings.resources import Resources


class Readings:
    """Answers as the token ids that a reward model reads: its own tokenizer and template, and what it can take."""

    def __init__(self, folder: Path, model: Model):
        """Raises UserError for a tokenizer or a template that cannot be used."""
        self.conversations = Conversations(open_tokeniser(folder, 1, 1, **model.rendering))
        self.limits = Limits.of(folder)

    def __call__(self, rows: Sequence[Row]) -> list[list[int] | Dropped]:
        self.conversations.forget()  # so that a part depends on its own rows alone
        return [self._read(row) for row in rows]

    def _read(self, row: Row) -> list[int] | Dropped:
        ids = self.conversations(json.loads(row["prompt"]), said(row["response"]))
        if isinstance(ids, Dropped):
            return ids
        if len(ids) < 2:
            return Dropped("nothing-to-read", f"{len(ids)} tokens")
        return self.limits.check(TokenisedPair(ids, [], [])) or ids


class Classifier:
    """A reward model with one label, by the packed path."""

    def __init__(self, folder: Path, model: Model, resources: Resources, device: str):
        """`device` as `load_reward_model` takes it. Raises UserError; see there."""
        self.read, self.resources = Readings(folder, model), resources
        self.model = load_reward_model(
            folder, model.dtype, device, trust_remote_code=model.trust_remote_code, resources=resources
        )
        self.lanes = Lanes(self.model)
        self.dtype, self.packs = model.dtype, 0

    def words(self, on: str) -> str:
        """How the model is run, on what is named."""
        return chosen(self.model).words(self.model.device.type, self.dtype, on)

    def __call__(self, rows: Sequence[Row]) -> list[Verdict]:
        read = self.read(rows)
        asked = [ids for ids in read if not isinstance(ids, Dropped)]
        found = rewards(self.model, asked, self.resources.budgets(self.model.device.type).score_tokens, self.lanes)
        self.packs = found.packs
        values = iter(found.values)
        return [_unread(ids) if isinstance(ids, Dropped) else _verdict(next(values), ids, {}) for ids in read]


class Armo:
    """A reward model that brings code of its own and gives a `.score`, such as ArmoRM: one conversation at a time."""

    def __init__(self, folder: Path, model: Model, resources: Resources, device: str):
        """Raises UserError where it cannot be opened."""
        self.read = Readings(folder, model)
        self.model = open_classifier(folder, model.dtype, device, trust_remote_code=True)
        self.model.config.pad_token_id = None  # nothing is padded: where it looks for padding, an end of text is none
        self.dtype, self.packs = model.dtype, 0

    def words(self, on: str) -> str:
        return f"{self.dtype} on {on}; {type(self.model).__name__}, an answer at a time by its own forward"

    def __call__(self, rows: Sequence[Row]) -> list[Verdict]:
        self.packs = len(rows)
        return [self._rate(ids) for ids in self.read(rows)]

    @torch.no_grad()
    def _rate(self, ids: list[int] | Dropped) -> Verdict:
        if isinstance(ids, Dropped):
            return _unread(ids)
        output = self.model(torch.tensor([ids], device=self.model.device))
        if (score := getattr(output, "score", None)) is None or score.numel() != 1:
            raise UserError(
                f"{type(self.model).__name__} gives no `.score` of one number for an answer",
                "use kind: classifier for a model with one label; of others only those that give a `.score` can rate",
            )
        heads = getattr(output, "rewards", None)
        return _verdict(float(score), ids, {} if heads is None else {"heads": heads.flatten().tolist()})


KINDS: dict[str, type[Classifier] | type[Armo]] = {"classifier": Classifier, "armo": Armo}


def _verdict(score: float, ids: Sequence[int], detail: dict[str, Any]) -> Verdict:
    if not math.isfinite(score):
        return Verdict(None, {"why": "not-finite", "detail": f"the score is {score}"}, len(ids))
    return Verdict(score, detail, len(ids))


def _unread(dropped: Dropped) -> Verdict:
    return Verdict(None, {"why": dropped.reason, "detail": dropped.detail})
