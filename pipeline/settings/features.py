"""Features of a decoder layer's states: which, and by which sparse autoencoder."""

from pydantic import Field

from pipeline.errors import UserError
from pipeline.settings.section import Section


class Features(Section):
    # A folder as Gemma Scope, Llama Scope, sparsify or SAELens have it; null: one is trained here, on the base model's
    # states of the completions. What follows `layer` is of that training.
    source: str | None = Field(default=None, min_length=1)
    layer: int | None = Field(default=None, ge=0)  # whose output, from 0; null: as source says, or two thirds up
    latents: int = Field(default=2304, ge=1)  # features
    active: int = Field(default=32, ge=1)  # of which so many are not 0 at a position
    # Completion tokens whose states are kept, at most; those of a sixteenth of the pairs are held out.
    states: int = Field(default=200_000, ge=64)
    passes: int = Field(default=8, ge=1)  # over these
    batch_states: int = Field(default=1024, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)  # null: 2e-4 / sqrt(latents / 2^14), as sparsify has it
    seed: int = 0

    def require_layer(self, named: int | None) -> None:
        """Raise UserError where the autoencoder was made for another layer than is asked for."""
        if named is not None and self.layer not in (None, named):
            problem = f"features.layer={self.layer}, and features.source={self.source} was made for layer {named}"
            raise UserError(problem, "leave features.layer out")
