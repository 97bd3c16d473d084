"""What the sample stage costs: its actors' tokens/s against those of a bare vLLM engine. JSON on stdout.

    python -m benchmarks.sample --model SOURCE --prompts FILE [--limit 64] [--n 5] [--new-tokens 128] [--shards 16 64]

The bare engine is one vllm.LLM with our engine's arguments and environment, asked for all answers by ONE call: the same
requests, of the same seeds, with log-probs. The stage asks for them in shards of each size. All are processes of their
own and take turns; `over_bare` and `seconds` are as in benchmarks.generate. `answers_like_bare` says how many answers
are the same on both sides: rounding depends on who shares a batch.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.generate import bare_engine, compare
from benchmarks.measure import Result, reported


def stage(job: dict[str, Any]) -> Result:
    """The stage as its door runs it."""
    from jobs.common.stage import make
    from pipeline.line.plan import make_plan
    from pipeline.results import tables
    from pipeline.settings.config import load

    plan = make_plan(load(job["config"], [f"sample.shard_prompts={job['shard_prompts']}"]))
    made = make(plan, plan.steps["sample"], force=True)
    rows = tables.read(made.path, tables.CANDIDATES, ["seed", "response"]).to_pylist()
    return {
        "tokens": made.manifest["metrics"]["actor_tokens"],
        "answering": made.manifest["metrics"]["actor_seconds"],
        "answers": {str(row["seed"]): row["response"] for row in rows},
    }


def bare(job: dict[str, Any]) -> Result:
    from vllm import SamplingParams, TokensPrompt

    from actors.engine import whole_prompts
    from pipeline.onpolicy.candidates import seed_of
    from pipeline.onpolicy.prompts import read_prompts
    from pipeline.preferences.tokenise import open_tokeniser
    from pipeline.settings.config import load

    config = load(job["config"])
    sample, tokeniser = config.sample, open_tokeniser(Path(config.model.source), 1, 1)
    asked_for = read_prompts(sample.prompts).prompts
    prompts: Any = {name: tokeniser.prompt(each.messages) for name, each in asked_for.items()}
    room = max(map(len, prompts.values())) + sample.max_new_tokens
    engine = bare_engine(config, room, sample.seed, **whole_prompts(room))
    asked = [(ids, seed_of("model", sample.seed, name, k)) for name, ids in prompts.items() for k in range(sample.n)]
    how: dict[str, Any] = {
        "temperature": sample.temperature,
        "top_p": sample.top_p,
        "max_tokens": sample.max_new_tokens,
    }
    started = time.perf_counter()
    outputs = engine.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids, _ in asked],
        [SamplingParams(**how, seed=seed, logprobs=0, stop_token_ids=[tokeniser.end_id]) for _, seed in asked],
        use_tqdm=False,
    )
    answering = time.perf_counter() - started
    return {
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "answering": answering,
        "answers": {str(seed): output.outputs[0].text for (_, seed), output in zip(asked, outputs, strict=True)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="SOURCE", help="as model.source")
    parser.add_argument("--prompts", default="verifiable", metavar="FILE", help="as sample.prompts takes it")
    parser.add_argument("--limit", type=int, default=64, help="prompts")
    parser.add_argument("--n", type=int, default=5, help="answers a prompt")
    parser.add_argument("--new-tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--shards", type=int, nargs="+", default=[16, 64], help="sizes of sample.shard_prompts")
    parser.add_argument("--repeats", type=int, default=3, help="alternations")
    options = parser.parse_args()
    settings = {
        "name": "benchmark",
        "model": {"source": options.model},
        "data": {"source": "sampled"},
        "sample": {
            "prompts": {"source": options.prompts, "limit": options.limit},
            "n": options.n,
            "max_new_tokens": options.new_tokens,
        },
    }
    with reported(), tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as root:
        found = compare(settings, options.shards, options.repeats, Path(root), "benchmarks.sample")
    print(json.dumps({**vars(options), **found}, indent=2))


if __name__ == "__main__":
    main()
