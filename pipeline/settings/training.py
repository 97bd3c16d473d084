"""The sections of training: `schedule`, `objective`, `reference` and `train`."""

import re
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.settings.faults import shown
from pipeline.settings.inputs import Weights
from pipeline.settings.section import Section, Share


class Schedule(Section):
    order: Literal["shuffle", "easy-to-hard", "hard-to-easy"] | None = None  # null: as the objective asks
    window: int | None = Field(default=None, ge=1)  # easy-to-hard, hard-to-easy: shuffle within runs of so many pairs
    # Random, drawn by the seed, is for comparison: what a choice by difficulty is worth.
    difficulty: Literal["score-margin", "reference-gap", "reference-gap-per-token", "column", "random"] = "score-margin"
    drop_percentile: float | None = Field(default=None, ge=0, lt=100)  # so many percent of the train pairs are left out
    drop: Literal["hardest", "easiest"] = "hardest"  # which ones; before any go to SFT
    # So many percent of the train pairs, the hardest of those kept, go to SFT; mixdpo only, 10 there.
    sft_percentile: float | None = Field(default=None, ge=0, le=100)
    sft_below: float | None = None  # or: pairs of a margin below this go to SFT, as in the paper
    # Label noise: this share of all train pairs, rounded to whole pairs, is the wrong way round. Pairs that are dropped
    # or go to SFT count, too: noise is in the data, whatever is made of them. A larger share flips the same and more.
    flip_fraction: float = Field(default=0.0, ge=0, le=1)
    swap_labels: bool = False  # then every label is exchanged: a flipped one is right again
    epochs: int = Field(default=1, ge=1)
    seed: int = 0

    @property
    def ranks(self) -> bool:
        """Whether pairs are told apart by difficulty."""
        return self.order != "shuffle" or (self.drop_percentile, self.sft_percentile, self.sft_below) != (None,) * 3

    @model_validator(mode="after")
    def _window_has_an_order(self) -> "Schedule":
        if self.window is not None and self.order == "shuffle":
            problem = f"schedule.window={self.window} loosens an order, and schedule.order=shuffle is none"
            raise UserError(problem, "set schedule.order to easy-to-hard or hard-to-easy, or schedule.window to null")
        return self


class Objective(Section):
    """A preset and what is changed in it; which parameters a preset has stands in pipeline/objectives/presets.py."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str = "gamma-dpo"

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Lora(Section):
    """Low-rank adapters (PEFT). The base model stays the reference, so cached scores stay valid."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # All but the output head, or names such as q_proj, or one regular expression for the whole name of a module.
    layers: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="all-linear", examples=[["q_proj", "v_proj"]]
    )
    merge: bool = True  # into the exported model; false keeps them apart, and vLLM puts them on the base model

    @field_validator("layers", mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        """A name alone is a list of one: PEFT would take it for an expression, which no module's whole name is."""
        return [given] if isinstance(given, str) and given != "all-linear" and re.fullmatch(r"[\w.]+", given) else given

    @field_validator("layers")
    @classmethod
    def _is_an_expression(cls, layers: str | tuple[str, ...]) -> str | tuple[str, ...]:
        remedy = "give all-linear, names such as [q_proj, v_proj], or an expression"
        if "" in (layers, *layers):
            raise UserError(f"train.lora.layers={shown(layers)} names no layer", remedy)
        try:
            re.compile(layers if isinstance(layers, str) else "")
        except re.error as error:
            raise UserError(f"train.lora.layers={layers!r} is no regular expression ({error})", remedy) from None
        return layers

    @model_validator(mode="after")
    def _served(self) -> "Lora":
        if self.rank > 512 and not self.merge:
            problem = f"train.lora.rank={self.rank} is more than the 512 that vLLM serves unmerged"
            raise UserError(problem, "lower it, or set train.lora.merge to true")
        return self


class Reference(Section):
    model: Weights | None = None  # whose log-probs gaps are measured against; null: the model's


class Train(Section):
    learning_rate: float = Field(default=1e-6, gt=0)
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, le=1)
    decay_fraction: float = Field(default=0.1, gt=0, le=1)  # of all steps, for wsd: warm-up, stable, decay
    lora: Lora | None = None  # null trains all weights
    batch_size: int = Field(default=128, ge=1)  # pairs an optimiser step, over all workers
    # With moments of 32 bits, or of 8 where torchao or bitsandbytes is installed: a quarter of their memory.
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    adam_betas: tuple[Share, Share] = (0.9, 0.999)
    max_grad_norm: float = Field(default=1.0, gt=0)
    held_out_steps: int = Field(default=0, ge=0)  # look at the held-out pairs every so many steps; 0: at the end only
    seed: int = 0  # of dropout, where there is any, and of adapters
    start: Weights | None = None  # what is trained; null: the model
