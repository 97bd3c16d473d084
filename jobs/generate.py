"""Answer the benchmarks' questions with vLLM actors: python -m jobs.generate --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.saying import doing
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError
from pipeline.settings.config import RunConfig

if TYPE_CHECKING:
    from pipeline.evaluation.benchmarks.questions import Question
    from pipeline.preferences.tokenise import Tokeniser

OPENED = {"train": ("model/*", "adapter/*")}


def run(work: Work) -> Outcome:
    """A part of answers for every shard of questions: by the model that is an input, or else by the base model.

    Where the input holds unmerged adapters, they are put on the model that they were trained on. One engine answers the
    questions of all benchmarks.
    """
    from actors.cluster import connected, threads
    from actors.engine import environment
    from actors.generator import Generator, GeneratorSpec
    from jobs.common.models import base_model, engine_spec, start_model
    from jobs.common.pool import run_parts
    from pipeline.results import tables

    resources, seed = work.config.resources, work.config.generate.seed
    trained = work.inputs["model"].path if "model" in work.inputs else None
    adapter = trained / "adapter" if trained and (trained / "adapter").exists() else None
    model = start_model(work.plan) if adapter else trained / "model" if trained else base_model(work.plan)
    shards, room = laid_out(work.config, model)
    doing("starting or joining Ray")
    with connected():
        engine = engine_spec(model, work.config.model, room, resources, seed, adapter)
        outcome = run_parts(
            shards,
            Generator,
            GeneratorSpec(engine, str(work.folder), seed),
            what=work.step.name,
            setting="resources.generators",
            actors=resources.generators,
            resources=resources,
            address=work.step.address,
            environment=environment(resources.kv_cache_gib, threads(resources.generators)),
        )
    answers = tables.read(work.folder, tables.RESPONSES, ["tokens", "finish_reason"]).to_pydict()
    outcome.tokens = sum(answers["tokens"])
    outcome.metrics["no_room"] = sum(map(answers["finish_reason"].count, tables.UNASKED))
    return outcome


def laid_out(config: RunConfig, model: Path) -> tuple[list[dict[str, Any]], int]:
    """The questions in shards, a part each; and tokens of the longest conversation with the model in a folder."""
    from pipeline.compute.limits import positions, read_config
    from pipeline.evaluation.benchmarks.questions import asked as asked_of
    from pipeline.evaluation.benchmarks.sampling import check_family, sampling
    from pipeline.preferences.tokenise import open_tokeniser
    from pipeline.results import tables

    settings, data = config.generate, config.data
    doing("opening the tokenizer, laying out the questions")
    tokeniser = open_tokeniser(model, data.max_prompt_tokens, data.max_completion_tokens, **config.model.rendering)
    if settings.preset and settings.stop_token_ids is None:
        check_family(settings.preset, tokeniser.tokenizer)
    asked = asked_of(settings)
    sampled = [sampling(settings, benchmark, question) for benchmark, question in asked]
    room = room_for(asked, [each.max_tokens for each in sampled], tokeniser, positions(read_config(model)))
    rows = [
        asdict(question) | {"benchmark": benchmark, "sample": sample, "sampling": asdict(how)}
        for (benchmark, question), how in zip(asked, sampled, strict=True)
        for sample in range(settings.samples)
    ]
    shards = [
        {"part": f"part-{number:05d}.parquet", "questions": json.dumps(part)}
        for number, part in enumerate(tables.parts(rows, settings.shard_prompts))
    ]
    return shards, room


def room_for(
    asked: Sequence[tuple[str, Question]], answers: Sequence[int], tokeniser: Tokeniser, most: int | None
) -> int:
    """Tokens of the longest conversation, each answer taking all it may, which is `answers` for each question; no more
    than the `most` that the model takes.

    In one that is longer, answers are cut short, and what is left no token is not asked. Raises UserError where all of
    them are longer, or one cannot be asked.
    """
    from pipeline.preferences.messages import Dropped

    lengths = []
    for (benchmark, question), answer in zip(asked, answers, strict=True):
        later = [turn for text in question.then for turn in (_message("assistant", "x"), _message("user", text))]
        ids = tokeniser.prompt([*question.messages, *later])
        if isinstance(ids, Dropped):
            problem = f"{benchmark}, question {question.question_id}: {ids.reason} ({ids.detail})"
            raise UserError(problem, "use another chat template")
        lengths.append(len(ids) + answer * (1 + len(question.then)))
    # An answer that is read again as a part of the next prompt may be cut into a few tokens more.
    longest = max(lengths) + (64 if any(question.then for _, question in asked) else 0)
    if most is None:
        return longest
    if min(lengths) > most:
        raise UserError(
            f"the shortest question and its answers may take {min(lengths)} tokens, the model takes {most}",
            "lower generate.max_new_tokens",
        )
    return min(longest, most)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


if __name__ == "__main__":
    main("generate")
