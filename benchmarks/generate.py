"""What the generate stage costs: its actors' tokens/s against those of a bare vLLM engine. JSON on stdout.

    python -m benchmarks.generate --model SOURCE --questions FILE [--n 160] [--new-tokens 64] [--shards 40 160]

The bare engine is one vllm.LLM with our engine's arguments and environment, asked all questions by ONE call, greedily.
The stage answers them for the base model in shards of each size. All are processes of their own and take turns.
`over_bare` is tokens/s over the bare engine's: of the call alone there, and of the actors' own time here, which is
making prompts, the engine's calls and writing of the parts; starts of engines are in neither. `seconds` are those of
whole processes, starts included. Float rounding depends on who shares a batch, so that a few answers may differ.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Result, alternate, median_ratio, reported, run_child

if TYPE_CHECKING:
    from vllm import LLM

    from pipeline.settings.config import RunConfig


def compare(
    settings: dict[str, Any], shards: list[int], repeats: int, root: Path, module: str = "benchmarks.generate"
) -> Result:
    """`repeats` alternations of the bare engine and the stage, `bare` and `stage` of the module.

    `settings` is a configuration, `root` a fresh folder.
    """
    settings = settings | {"resources": settings.get("resources", {}) | {"root": str(root / "runs")}}
    file = root / "benchmark.yaml"
    file.write_text(json.dumps(settings), encoding="utf-8")
    model = run_child("benchmarks.generate", "model_folder", {"config": str(file)})["folder"]
    file.write_text(json.dumps(settings | {"model": {"source": model}}), encoding="utf-8")
    job = {"config": str(file)}
    sides = {"bare": partial(timed, "bare", job, module)}
    sides |= {f"shards of {size}": partial(timed, "stage", job | {"shard_prompts": size}, module) for size in shards}
    runs = alternate(sides, repeats)
    return {name: figures(results, runs["bare"]) for name, results in runs.items()}


def figures(results: list[Result], bare: list[Result]) -> Result:
    rates, theirs = ([each["tokens"] / each["answering"] for each in side] for side in (results, bare))
    return {
        "tokens_per_second": [round(rate, 1) for rate in rates],
        "over_bare": round(median_ratio(rates, theirs), 3),
        "median_tokens_per_second": round(statistics.median(rates), 1),
        "seconds": [round(each["seconds"], 1) for each in results],
        "tokens": results[-1]["tokens"],
        "answers_like_bare": sum(bare[-1]["answers"][name] == text for name, text in results[-1]["answers"].items()),
    }


def timed(side: str, job: dict[str, Any], module: str) -> Result:
    from actors.engine import environment
    from pipeline.settings.config import load

    kv_cache = load(job["config"]).resources.kv_cache_gib
    started = time.perf_counter()
    result = run_child(module, side, job, environment=environment(kv_cache, os.cpu_count() or 1))
    return {**result, "seconds": time.perf_counter() - started}


def model_folder(job: dict[str, Any]) -> Result:
    """A .gguf file is converted once, for all."""
    from jobs.common.models import base_model
    from pipeline.line.plan import make_plan
    from pipeline.settings.config import load

    return {"folder": str(base_model(make_plan(load(job["config"]))))}


def stage(job: dict[str, Any]) -> Result:
    """The stage as its door runs it, for the base model alone."""
    import pyarrow.parquet as pq

    from jobs.common.stage import make
    from pipeline.line.plan import make_plan
    from pipeline.settings.config import load

    plan = make_plan(load(job["config"], [f"generate.shard_prompts={job['shard_prompts']}"]))
    made = make(plan, plan.steps["generate:base"], force=True)
    answers = pq.read_table(sorted(made.path.glob("part-*.parquet")), columns=["question_id", "response"]).to_pylist()
    return {
        "tokens": made.manifest["metrics"]["actor_tokens"],
        "answering": made.manifest["metrics"]["actor_seconds"],
        "answers": {row["question_id"]: row["response"] for row in answers},
    }


def bare(job: dict[str, Any]) -> Result:
    from transformers import AutoTokenizer
    from vllm import SamplingParams, TokensPrompt

    from pipeline.evaluation.benchmarks.questions import read
    from pipeline.settings.config import load

    config = load(job["config"])
    (name, file), most = next(iter(config.generate.benchmarks.items())), config.generate.max_new_tokens or 1
    questions = read(name, file, config.generate.prompts)
    tokenizer: Any = AutoTokenizer.from_pretrained(config.model.source)
    chats = [list(question.messages) for question in questions]
    prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
    engine = bare_engine(config, max(map(len, prompts)) + most, config.generate.seed)
    started = time.perf_counter()
    outputs = engine.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in prompts],
        SamplingParams(temperature=0.0, max_tokens=most),
        use_tqdm=False,
    )
    answering = time.perf_counter() - started
    return {
        "tokens": sum(len(output.outputs[0].token_ids) for output in outputs),
        "answering": answering,
        "answers": {q.question_id: output.outputs[0].text for q, output in zip(questions, outputs, strict=True)},
    }


def bare_engine(config: "RunConfig", room: int, seed: int, **more: Any) -> "LLM":
    """vLLM by itself, for conversations of `room` tokens."""
    from vllm import LLM

    return LLM(
        model=config.model.source,
        dtype="float32",
        max_model_len=room,
        gpu_memory_utilization=config.resources.gpu_memory_fraction,
        enforce_eager=True,
        disable_log_stats=True,
        seed=seed,
        **more,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="SOURCE", help="as model.source")
    parser.add_argument("--questions", type=Path, required=True, metavar="FILE", help="as generate.benchmarks takes it")
    parser.add_argument("--n", type=int, default=160, help="questions")
    parser.add_argument("--new-tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--shards", type=int, nargs="+", default=[40, 160], help="sizes of generate.shard_prompts")
    parser.add_argument("--repeats", type=int, default=3, help="alternations")
    options = parser.parse_args()
    settings = {
        "name": "benchmark",
        "model": {"source": options.model},
        "generate": {
            "benchmarks": {"mine": str(options.questions.resolve())},
            "prompts": options.n,
            "max_new_tokens": options.new_tokens,
        },
    }
    with reported(), tempfile.TemporaryDirectory(prefix="benchmark-", ignore_cleanup_errors=True) as root:
        found = compare(settings, options.shards, options.repeats, Path(root))
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    print(json.dumps({**shown, **found}, indent=2))


if __name__ == "__main__":
    main()
