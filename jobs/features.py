"""Train a sparse autoencoder on the reference's states: python -m jobs.features --config FILE [section.key=value]"""

from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main

if TYPE_CHECKING:
    from actors.dictionary import DictionarySpec


def run(work: Work) -> Outcome:
    """cfg.json and sae.safetensors, as EleutherAI's sparsify has them, and the history of the training as a table."""
    from actors.cluster import connected, threads
    from actors.dictionary import STATES, TRAINING, DictionaryTrainer
    from actors.environment import environment
    from jobs.common.pool import run_parts
    from pipeline.results import tables

    resources, spec = work.config.resources, spec_of(work)
    doing("starting or joining Ray")
    with connected():
        doing("training the autoencoder")
        outcome = run_parts(
            [{"part": "part-00000.parquet"}],
            DictionaryTrainer,
            replace(spec, threads=threads(1)),
            what="features",
            setting="resources.scorers",
            actors=1,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.gpus_per_actor),
        )
    for name in (STATES, TRAINING):
        (work.folder / name).unlink(missing_ok=True)
    last = tables.read(work.folder, tables.DICTIONARY).to_pylist()[-1]
    outcome.metrics |= {name: last[name] for name in ("loss", "explained", "dead")}
    outcome.tokens = last["states"]
    told = f"{last['explained']:.1%} of held-out states' variance explained, {last['dead']:.1%} of latents dead"
    say(f"features: {told}")
    return outcome


def spec_of(work: Work) -> "DictionarySpec":
    """What is trained, on which model's states."""
    from actors.dictionary import DictionarySpec
    from jobs.common.models import reference_model

    config = work.config
    return DictionarySpec(
        model=str(reference_model(work.plan)),
        dtype=config.model.dtype,
        pairs=str(work.inputs["pairs"].path),
        folder=str(work.folder),
        features=config.features,
        resources=config.resources,
        threads=1,
        trust_remote_code=config.model.trust_remote_code,
    )


if __name__ == "__main__":
    main("features")
