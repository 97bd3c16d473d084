"""Answer the benchmark's questions with vLLM actors: python -m jobs.generate --config FILE [section.key=value ...]"""

from pathlib import Path
from typing import Any

from jobs.stage import Outcome, Work, main


def run(work: Work) -> Outcome:
    """A part of answers for every shard of questions: by the model that is an input, or else by the base model."""
    from actors.cluster import connected, threads
    from actors.generator import Generator, GeneratorSpec, environment
    from jobs.pool import run_parts
    from jobs.prepare import base_model
    from pipeline import tables
    from pipeline.preferences.tokenise import Tokeniser, load_tokenizer

    resources, settings = work.config.resources, work.config.generate
    model: Path = work.inputs["model"].path / "model" if "model" in work.inputs else base_model(work.plan)
    tokenizer = load_tokenizer(
        model, work.config.model.chat_template, trust_remote_code=work.config.model.trust_remote_code
    )
    asked = ask(work, Tokeniser(tokenizer, work.config.data.max_prompt_tokens, settings.max_new_tokens))
    shards = [
        {"part": f"part-{number:05d}.parquet", "questions": part}
        for number, part in enumerate(tables.parts(asked, settings.shard_prompts))
    ]
    longest = max(len(question["prompt_ids"]) for question in asked) + settings.max_new_tokens
    refuse_beyond(model, longest)
    with connected():
        each = threads(resources.generators)
        spec = GeneratorSpec(
            model=str(model),
            dtype="float32" if work.config.model.dtype == "float64" else work.config.model.dtype,
            trust_remote_code=work.config.model.trust_remote_code,
            folder=str(work.folder),
            settings=settings,
            max_model_len=longest,
            gpu_memory_fraction=resources.gpu_memory_fraction,
        )
        outcome = run_parts(
            shards,
            Generator,
            spec,
            what=work.step.name,
            setting="resources.generators",
            actors=resources.generators,
            resources=resources,
            folder=work.folder,
            environment=environment(resources.kv_cache_gib, each),
        )
    answers = tables.read(work.folder, tables.RESPONSES, ["tokens"])
    outcome.tokens = sum(answers["tokens"].to_pylist())
    return outcome


def ask(work: Work, tokeniser: Any) -> list[dict[str, Any]]:
    """The benchmark's questions with their token ids, in order. Raises UserError for one that cannot be asked."""
    import json

    from pipeline.errors import UserError
    from pipeline.preferences.normalise import Dropped
    from pipeline.preferences.verifiable import questions
    from pipeline.tables import messages_json

    settings, rows = work.config.generate, []
    for question in questions(settings.split, settings.prompts):
        ids = tokeniser.prompt(question.messages)
        if isinstance(ids, Dropped):
            raise UserError(
                f"question {question.question_id}: {ids.reason} ({ids.detail})", "use another chat template"
            )
        rows.append(
            {
                "question_id": question.question_id,
                "benchmark": f"{settings.benchmark}/{settings.split}",
                "prompt": messages_json(question.messages),
                "meta": json.dumps(question.meta),
                "prompt_ids": ids,
            }
        )
    return rows


def refuse_beyond(model: Path, positions: int) -> None:
    """Raise UserError where question and answer together do not fit into the model's context."""
    import json

    from pipeline.errors import UserError

    has = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings")
    if has and positions > has:
        raise UserError(
            f"the longest question and its answer may take {positions} tokens, the model takes {has}",
            "lower generate.max_new_tokens",
        )


if __name__ == "__main__":
    main("generate")
