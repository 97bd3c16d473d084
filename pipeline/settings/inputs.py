"""What a run is made of: a model, and data."""

import os
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from pipeline.errors import UserError
from pipeline.preferences.template import DATE
from pipeline.settings.section import Section, Share

EMBEDDED = "verifiable"  # as a source: the tasks made here
SAMPLED = "sampled"  # as data.source: pairs of a model's own answers; see settings/onpolicy.py


class Model(Section):
    # A directory, a .gguf file, package://module/file.gguf (a file inside an installed package), or a hub name.
    source: str = Field(min_length=1)
    revision: str | None = None  # of a hub name: branch, tag or commit
    # float64 is for checks of the training path; answers are then generated in float32.
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    chat_template: str | None = None  # a Jinja file, where the tokenizer has no template or the wrong one
    # To every rendering of the template, such as enable_thinking: false.
    template_arguments: dict[str, JsonValue] = Field(default={}, examples=[{"enable_thinking": False}])
    template_date: date = DATE  # what a template that asks for the date is told is today
    trust_remote_code: bool = False  # run the Python files that the model brings; they can do whatever you can

    @field_validator("chat_template")
    @classmethod
    def _from_anywhere(cls, given: str | None) -> str | None:
        """Whole, as workers that render by it may have another directory than the door."""
        return given and os.path.abspath(os.path.expanduser(given))

    @property
    def rendering(self) -> dict[str, Any]:
        """What `open_tokeniser` takes of it: all conversations with a model are rendered alike."""
        names = ("chat_template", "trust_remote_code", "template_arguments", "template_date")
        return {name: getattr(self, name) for name in names}


class Weights(Section):
    """Other weights of the model: of its tokenizer, and opened, rendered and computed as the section `model` says."""

    source: str = Field(min_length=1)  # as model.source, and its revision
    revision: str | None = None


class Data(Section):
    # EMBEDDED, SAMPLED, a file, a folder of files, or a hub data set; docs/data.md says which.
    source: str = Field(default=EMBEDDED, min_length=1)
    subset: str | None = None  # of a hub data set, or a folder laid out as one: its configuration
    split: str | None = None  # the same: its split
    revision: str | None = None
    # Where rows have other names for what is read, such as {prompt: question, chosen: response_j}; null: leave it.
    columns: dict[str, Annotated[str, Field(min_length=1)] | None] = Field(
        default={}, examples=[{"prompt": "question", "chosen": "response_j"}]
    )
    # Of several completions in a row, ranked or rated, which make pairs.
    pairing: Literal["best-worst", "all", "adjacent"] = "best-worst"
    limit: int | None = Field(default=None, ge=1)  # keep so many train pairs, chosen by a hash of their content
    pairs: int = Field(default=256, ge=1)  # embedded source: train pairs to make
    dev_pairs: int = Field(default=64, ge=0)  # embedded source: held-out pairs to make
    dev_fraction: Share = 0.0  # other sources: share of prompts held out, where rows name no split
    difficulty_column: str | None = Field(default=None, min_length=1)  # of numbers, larger is harder; null: difficulty
    seed: int = 0  # embedded source
    thoughts: bool = False  # embedded source: answers come with thoughts, for a template that renders them
    # SAMPLED: results of stage pair, such as ROOT/pair/NAME, whose pairs are trained on, too. Of a pair that several
    # have, the sampled one is kept, or else that of the first.
    earlier: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), examples=[["ROOT/pair/NAME"]])
    max_prompt_tokens: int = Field(default=512, ge=1)
    long_prompts: Literal["drop", "keep-end"] = "drop"  # what becomes of a longer one: of its tokens the last are kept
    max_completion_tokens: int = Field(default=512, ge=1)  # a pair with a longer one is dropped
    equal_lengths: bool = False  # cut both completions to the tokens of the shorter, before their length is looked at
    # Keep which tokens of either completion differ from the other's, as bmc asks for.
    changed_tokens: bool = False
    max_dropped: float = Field(default=0.05, ge=0, le=1)  # share of rows that may be dropped before prepare fails
    # Share of pairs that may spell the model's control tokens, or have answers that begin with their prompt.
    max_suspect: float = Field(default=0.2, ge=0, le=1)
    # Pairs a Parquet part: the unit of work, and of re-work, of the reference stage.
    shard_pairs: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _made_has_no_columns(self) -> "Data":
        if self.source in (EMBEDDED, SAMPLED) and self.columns:
            raise UserError(f"data.columns: the pairs of data.source={self.source} are made, not read", "leave it out")
        return self
