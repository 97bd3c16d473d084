"""The section of token weights, read where the objective takes them (tis-dpo)."""

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.settings.section import Section

Range = tuple[float, float]
# Where log pi+ - log pi- is cut off: in the authors' code, of what speaks for either side; in the paper.
CLIPS: dict[str, Range] = {"clipped": (-1.5, 1.5), "published": (-0.5, 1.5)}


class Weigh(Section):
    # How a token's weight is made of what the contrastive models say of it; pipeline/objectives/contrast.py.
    transform: Literal["rank", "clipped", "published"] = "rank"
    span: Range = Field(default=(0.7, 1.3), examples=[[0.5, 1.5]])  # rank and clipped: the least and the largest weight
    clip: Range | None = Field(default=None, examples=[[-1, 1]])  # clipped and published; null: as in CLIPS
    # What both contrastive runs change in these sections; the rest of `train` is as it is, and of the schedule flips,
    # epochs and seed; the objective is DPO where it has no name. One trains on the labels as this run does, the other
    # on the labels the other way round.
    contrast: dict[Literal["objective", "schedule", "train"], dict[str, Any]] = Field(
        default={"objective": {"name": "dpo"}}, examples=[{"objective": {"name": "dpo", "beta": 0.3}}]
    )

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, raw: Any) -> Any:
        """Write what null means into the section: an identity then holds values."""
        if not isinstance(raw, dict) or raw.get("clip") is not None:
            return raw
        clip = CLIPS.get(str(raw.get("transform")))
        return raw | ({"clip": clip} if clip else {})

    @model_validator(mode="after")
    def _in_order(self) -> "Weigh":
        for name, given in (("span", self.span), ("clip", self.clip)):
            if given is not None and given[0] > given[1]:
                problem = f"weigh.{name}=[{given[0]:g}, {given[1]:g}] begins after its end"
                raise UserError(problem, f"give the smaller number first: [{given[1]:g}, {given[0]:g}]")
        return self
