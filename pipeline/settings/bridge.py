"""The section of edited pairs: read where it names who edits."""

from pydantic import Field, model_validator

from pipeline.errors import UserError
from pipeline.settings.inputs import Model
from pipeline.settings.section import Section


class Bridge(Section):
    # A model that rewrites each rejected answer towards the chosen one, before prepare: by its name at
    # resources.judge_endpoint, or one that is run here. Null: pairs stay as they are.
    judge: str | None = Field(default=None, min_length=1)
    local: Model | None = None
    # Edits longer than this many times the longer of both answers are none, nor those that the shorter one is this many
    # times as long as, such as a refusal.
    max_growth: float = Field(default=1.5, gt=0)
    max_tokens: int = Field(default=1024, ge=1)  # of an edit, thoughts and all
    max_lost: float = Field(default=0.5, ge=0, le=1)  # share of pairs that may have no edit before bridge fails

    @property
    def by(self) -> str | None:
        """Who edits."""
        return self.judge or (self.local.source if self.local else None)

    @model_validator(mode="after")
    def _one_editor(self) -> "Bridge":
        if self.judge is not None and self.local is not None:
            problem = f"bridge.judge={self.judge} and bridge.local.source={self.local.source} are two editors"
            raise UserError(problem, "set one of them to null")
        return self
