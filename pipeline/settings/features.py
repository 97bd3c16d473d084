"""Features of a decoder layer's states: which, and by which sparse autoencoder."""

from pydantic import Field

from pipeline.errors import UserError
from pipeline.settings.section import Section


class Features(Section):
    # A folder as Gemma Scope, Llama Scope, sparsify or SAELens have it; null: one is trained here, on the reference's
    # states of the completions. What follows `layer` is of that training.
    source: str | None = Field(default=None, min_length=1)
    # Whose output, from 0; null: as source says, and two thirds up where one is trained.
    layer: int | None = Field(default=None, ge=0)
    latents: int = Field(default=2304, ge=1)  # features
    active: int = Field(default=32, ge=1)  # of which so many are not 0 at a position
    # Completion tokens whose states are kept, and the rest of the last pair's; a sixteenth of the pairs is held out.
    states: int = Field(default=200_000, ge=64)
    passes: int = Field(default=8, ge=1)  # over these
    batch_states: int = Field(default=1024, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)  # null: 2e-4 / sqrt(latents / 2^14), as sparsify has it
    seed: int = 0

    def layer_read(self, named: int | None) -> int:
        """The layer that a given autoencoder reads: the one that it was made for, as it is `named` or asked for.

        Raises UserError where nobody says, or another is asked for.
        """
        if named is not None and self.layer not in (None, named):
            problem = f"features.layer={self.layer}, and features.source={self.source} was made for layer {named}"
            raise UserError(problem, "leave features.layer out")
        layer = named if self.layer is None else self.layer
        if layer is None:
            problem = f"features.source={self.source}: neither its settings nor its folder say which layer it is of"
            raise UserError(problem, "give features.layer, from 0")
        return layer
