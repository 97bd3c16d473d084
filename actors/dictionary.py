"""What trains a sparse autoencoder: an actor that holds the reference for its states, and then the autoencoder.

Torch is imported by the actor alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.pooled import Pooled
from pipeline.errors import memory_for
from pipeline.settings.features import Features
from pipeline.settings.resources import Resources

STATES, TRAINING = "states.pt", "training.pt"  # what a killed run goes on from; the door removes them


@dataclass(frozen=True)
class DictionarySpec:
    model: str  # a folder
    dtype: str
    pairs: str  # the pairs artifact's folder
    folder: str  # where the autoencoder goes
    features: Features
    resources: Resources
    threads: int
    trust_remote_code: bool = False


class DictionaryTrainer(Pooled):
    """Its one part is the history of the training; the autoencoder lies beside it."""

    def open(self, spec: DictionarySpec) -> None:
        import torch

        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        from pipeline.compute.dictionary import Training
        from pipeline.results import tables

        spec, folder = self.spec, Path(self.spec.folder)
        with memory_for("training an autoencoder", "lower features.states, features.batch_states or features.latents"):
            layer, trained, held_out = self._states(folder / STATES)
            training = Training(trained, held_out, spec.features, self.device)
            rows = list(training.run(folder / TRAINING, spec.resources.checkpoint_steps))
        training.export(folder, layer)
        tables.write(rows, tables.DICTIONARY, folder / work["part"])
        note = f"of layer {layer}, {len(trained):,} states to train on and {len(held_out):,} held out"
        return {"rows": len(rows), "tokens": rows[-1]["states"], "note": note}

    def _states(self, file: Path) -> tuple[int, Any, Any]:
        """Those of the model, computed once; and of which layer."""
        import torch

        from pipeline.compute.dictionary import collect
        from pipeline.compute.models import load_model
        from pipeline.results.files import aside

        spec = self.spec
        if not file.exists():
            trusted = spec.trust_remote_code
            model = load_model(
                Path(spec.model), spec.dtype, self.device.type, trust_remote_code=trusted, resources=spec.resources
            )
            budget = spec.resources.budgets(self.device.type).score_tokens
            states = collect(model, Path(spec.pairs), spec.features, budget)
            with aside(file) as beside:
                torch.save(states, beside)
        layer, trained, held_out = torch.load(file, weights_only=True)
        return layer, trained, held_out
