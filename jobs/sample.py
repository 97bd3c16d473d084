"""Sample answers to prompts with vLLM actors: python -m jobs.sample --config FILE [section.key=value ...]"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.common.earlier import NOTE, Earlier, take_over
from jobs.common.saying import doing, say
from jobs.common.stage import Outcome, Work, main
from pipeline.errors import UserError
from pipeline.statistics import share_of

if TYPE_CHECKING:
    from actors.sampler import SamplerSpec
    from pipeline.onpolicy.prompts import Asked, Prompt
    from pipeline.preferences.tokenise import Tokeniser
    from pipeline.settings.inputs import Model

DROPPED = "dropped.parquet"
REFERENCES = "part-data.parquet"


@dataclass(frozen=True)
class Answerer:
    """One model that answers: what its candidates are called, its folder, and the section that describes it."""

    name: str  # model | against
    folder: Path
    model: Model

    def tokeniser(self, room: int) -> Tokeniser:
        from pipeline.preferences.tokenise import open_tokeniser

        return open_tokeniser(self.folder, room, room, **self.model.rendering)


def run(work: Work) -> Outcome:
    """Parts of tables.CANDIDATES, one for every shard of prompts; and why other prompts are not asked."""
    from actors.cluster import connected
    from pipeline.onpolicy.prompts import read_prompts
    from pipeline.results import tables

    doing("reading prompts")
    asked = read_prompts(work.config.sample.prompts)
    require_same(work)
    answerers = answerers_of(work)
    doing("laying out the prompts")
    rooms = [lay_out(asked, each, work) for each in answerers]
    written = {DROPPED: tables.write(asked.dropped, tables.DROPPED, work.folder / DROPPED)}
    refuse_losses(asked, work)
    prompts = list(asked.prompts.values())
    if work.config.sample.reference_answers:
        written |= reference_answers(prompts, answerers[0], work)
    earlier = take_over(work)
    outcome = Outcome(written | dict(earlier.parts), scratch=(NOTE,))
    if earlier.samples < work.config.sample.n:
        doing("starting or joining Ray")
        with connected():
            for each, room in zip(answerers, rooms, strict=True):
                made = sampled(prompts, each, room, earlier, work)
                outcome.rows |= made.rows
                prefix = "" if each.name == "model" else f"{each.name}_"
                outcome.metrics |= {f"{prefix}{key}": value for key, value in made.metrics.items()}
    describe(outcome, asked, earlier, work)
    return outcome


def require_same(work: Work) -> None:
    """Raise UserError where the prompts are others than those that were planned with."""
    from pipeline.line.onpolicy import prompts_identity

    if prompts_identity(work.config.sample.prompts) != work.step.identity["prompts"]:
        problem = f"sample.prompts.source={work.config.sample.prompts.source} changed since this run was planned"
        raise UserError(problem, "run the same command again: it plans with what is there")


def answerers_of(work: Work) -> list[Answerer]:
    """Who answers, each model opened."""
    from jobs.common.models import opened, start_model

    front, sample = work.plan.front, work.config.sample
    assert front is not None
    if sample.model is None:
        found = [Answerer("model", start_model(work.plan), work.config.model)]
    else:
        found = [Answerer("model", opened(work.plan, front.model, sample.model, "sample.model"), sample.model)]
    if front.against and sample.against:
        folder = opened(work.plan, front.against, sample.against, "sample.against")
        found.append(Answerer("against", folder, sample.against))
    return found


def lay_out(asked: Asked, answerer: Answerer, work: Work) -> int:
    """Leave out prompts that an answerer cannot be asked; returns tokens of the longest conversation with its answer.

    Of one that is longer than the model takes, answers are cut short.
    """
    from pipeline.compute.configuration import embeddings
    from pipeline.compute.limits import positions, read_config
    from pipeline.preferences.messages import Dropped

    sample, config = work.config.sample, read_config(answerer.folder)
    most, known = positions(config), embeddings(config)
    limit = sample.max_prompt_tokens or work.config.data.max_prompt_tokens
    tokeniser, longest = answerer.tokeniser(limit), 1
    for prompt_id, prompt in list(asked.prompts.items()):
        ids = tokeniser.prompt(prompt.messages)
        if not isinstance(ids, Dropped):
            if len(ids) > limit:
                ids = Dropped("prompt-too-long", f"{len(ids)} tokens, the limit is {limit}")
            elif most is not None and len(ids) >= most:
                ids = Dropped("longer-than-model", f"{len(ids)} tokens, the model has {most} positions")
            elif known is not None and max(ids) >= known:
                ids = Dropped("no-embedding", f"token {max(ids)} of {known} embeddings")
        if isinstance(ids, Dropped):
            asked.leave_out(prompt_id, ids)
        else:
            longest = max(longest, len(ids))
    return min(longest + sample.max_new_tokens, most or longest + sample.max_new_tokens)


def refuse_losses(asked: Asked, work: Work) -> None:
    """Raise UserError, with an example a reason, where no prompt is left, or more rows were dropped than allowed."""
    dropped, allowed = len(asked.dropped), work.config.data.max_dropped
    if asked.dropped:
        say(f"sample: {dropped} of {asked.rows} rows dropped: {dict(asked.reasons.most_common())}")
    if asked.prompts and dropped <= share_of(asked.rows, allowed):
        return
    examples = {row["reason"]: row["detail"] for row in reversed(asked.dropped)}
    source = work.config.sample.prompts.source
    bound = f"data.max_dropped allows {allowed:.1%}" if asked.prompts else "which leaves nothing"
    told = "; ".join(f"{reason}: {detail}" for reason, detail in examples.items())
    raise UserError(
        f"sample.prompts.source={source}: {dropped} of {asked.rows} rows were dropped ({bound}), such as {told}",
        f"mend the data or raise data.max_dropped (prompt-too-long: sample.max_prompt_tokens); all are in "
        f"{work.folder / DROPPED}",
    )


def reference_answers(prompts: Sequence[Prompt], answerer: Answerer, work: Work) -> dict[str, int]:
    """The data's own answers as candidates; those that cannot be are said."""
    from collections import Counter

    from pipeline.onpolicy.candidates import references
    from pipeline.preferences.messages import Dropped
    from pipeline.results import tables

    tokeniser = answerer.tokeniser(1)
    found = [each for prompt in prompts for each in references(prompt, tokeniser)]
    rows = [each for each in found if not isinstance(each, Dropped)]
    reasons = Counter(each.reason for each in found if isinstance(each, Dropped))
    if reasons or not rows:
        told = f", {dict(reasons)} of others cannot be used" if reasons else ""
        say(f"sample: {len(rows)} answers of the data are candidates{told}")
    return {REFERENCES: tables.write(rows, tables.CANDIDATES, work.folder / REFERENCES)}


def sampled(prompts: Sequence[Prompt], answerer: Answerer, room: int, earlier: Earlier, work: Work) -> Outcome:
    """Parts of one answerer's answers, but for those that are taken over. Call inside `connected()`."""
    from actors.cluster import threads
    from actors.engine import environment
    from actors.sampler import Sampler
    from jobs.common.pool import run_parts
    from pipeline.onpolicy.candidates import of_prompt
    from pipeline.results import tables

    sample, resources = work.config.sample, work.config.resources
    shards: list[dict[str, Any]] = [
        {
            "part": f"part-{answerer.name}-{number:05d}-{earlier.samples:03d}.parquet",
            "first": earlier.samples,
            "last": sample.n,
            "prompts": json.dumps([{"columns": of_prompt(each), "messages": each.messages} for each in part]),
        }
        for number, part in enumerate(tables.parts(prompts, sample.shard_prompts))
    ]
    return run_parts(
        shards,
        Sampler,
        spec_of(answerer, room, work),
        what=work.step.name if answerer.name == "model" else f"{work.step.name}, {answerer.name}",
        setting="resources.generators",
        actors=resources.generators,
        resources=resources,
        address=work.step.address,
        environment=environment(resources.kv_cache_gib, threads(resources.generators)),
    )


def spec_of(answerer: Answerer, room: int, work: Work) -> SamplerSpec:
    """Who samples, how, for conversations of up to `room` tokens."""
    from actors.sampler import SamplerSpec
    from jobs.common.models import engine_spec

    sample, resources = work.config.sample, work.config.resources
    return SamplerSpec(
        engine_spec(answerer.folder, answerer.model, room, resources, sample.seed),
        str(work.folder),
        answerer.name,
        {
            "temperature": sample.temperature,
            "top_p": sample.top_p,
            "max_tokens": sample.max_new_tokens,
            "stop": list(sample.stop),
            "stop_token_ids": list(sample.stop_token_ids),
        },
        sample.seed,
        sample.branch.cuts,
        sample.branch.children,
    )


def describe(outcome: Outcome, asked: Asked, earlier: Earlier, work: Work) -> None:
    """What the candidates look like, for the manifest; and what must be said of them."""
    import pyarrow.compute as pc

    from pipeline.results import tables

    columns = ["prompt_id", "candidate_id", "answered_by", "tokens", "finish_reason", "logp", "prefix_tokens"]
    table = tables.read(work.folder, tables.CANDIDATES, columns)
    own = table.filter(pc.is_valid(table["logp"]))
    tokens = pc.sum(own["tokens"]).as_py() or 0
    outcome.tokens = tokens - (pc.sum(own["prefix_tokens"]).as_py() or 0)
    cut = pc.sum(pc.equal(own["finish_reason"], "length")).as_py() or 0
    outcome.metrics |= {
        "prompts": len(asked.prompts),
        "candidates": table.num_rows,
        "sampled": own.num_rows,  # the others are the data's
        "distinct": pc.count_distinct(table["candidate_id"]).as_py(),
        "cut": cut,
        "branches": own.num_rows - own["prefix_tokens"].null_count,
        "mean_tokens": tokens / max(1, own.num_rows),
        "mean_logp_a_token": (pc.sum(own["logp"]).as_py() or 0.0) / max(1, tokens),
        "taken_over": earlier.fact,
    }
    outcome.ledger = {
        "rows": asked.rows,
        "kept": len(asked.prompts),
        "repeated": asked.repeated,
        **({"skipped": asked.skipped} if asked.skipped else {}),
        "beyond_limit": asked.beyond_limit,
        "dropped": dict(asked.reasons.most_common()),
    }
    if 5 * cut > own.num_rows:
        most = work.config.sample.max_new_tokens
        say(f"sample: {cut} of {own.num_rows} answers were cut at sample.max_new_tokens={most}")


if __name__ == "__main__":
    main("sample")
