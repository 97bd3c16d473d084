"""A report of plausible size and shape, with hostile text planted where a model or a user could put it."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.evaluation.harness import Compared, Score
from pipeline.evaluation.profile import profile
from pipeline.report.data import (
    Elsewhere,
    HeldOut,
    HeldOutState,
    Ledger,
    Objective,
    Ranked,
    RankedGroup,
    ReportData,
    Route,
    StageRun,
)
from pipeline.report.outcomes import (
    Answer,
    Asked,
    Baseline,
    Benchmark,
    Judged,
    KindScore,
    Looks,
    Match,
    ModelScore,
    Rule,
    Sample,
    Saying,
    Verdict,
)
from pipeline.report.scheduled import described
from pipeline.statistics import Interval, WinRate
from tests.pipeline.report.sample_judging import alpaca, talks
from tests.pipeline.report.sample_sampled import own_answers

# Each would set window.pwned, or load something, if any door took it for markup.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    '<img src="x" onerror="window.pwned = 2">',
    "</textarea></pre></style></script><script>window.pwned = 3</script>",
    '<a href="javascript:window.pwned=4">x</a> <iframe src="data:text/html,<script>parent.pwned=5</script>"></iframe>',
    "\" onmouseover='window.pwned = 6' {{ 7 * 7 }} <!-- <script>",
)
_KINDS = (
    "number of words", "lower case", "bullet list", "contains word", "avoids word", "ends with", "one word",
    "JSON keys", "starts with", "number of sentences", "no comma", "upper case", "repeats question",
)  # fmt: skip
_STAGES = (
    ("prepare", 2.1, 448, None), ("reference", 58.4, 256, 17034), ("schedule", 0.8, 256, None),
    ("train", 181.2, 256, 17034), ("generate", 96.5, 160, 4804), ("generate", 99.0, 160, 4410),
    ("judge", 0.9, 320, None),
)  # fmt: skip


_RANKED = [
    RankedGroup("all", 2985, [Interval(0.712, 0.69, 0.733), Interval(0.501, 0.48, 0.522)]),
    RankedGroup(HOSTILE[2], 447, [Interval(0.55, 0.5, 0.6), Interval(0.98, 0.95, 1.0)]),
]
BASE = profile([f"**{n}** is a number\n- indeed" for n in range(160)], truncated=71)
TRAINED = profile([f"answer {n % 140}" for n in range(160)], truncated=4)


def sample_report(questions: int = 40, words: int = 60) -> ReportData:
    """The quickstart as it might turn out: MixDPO, 256 pairs in 32 steps, 160 questions.

    Of AlpacaEval so many `questions`, with answers of about so many `words`.
    """
    draw = random.Random("report")
    compared, answers = alpaca(questions, HOSTILE, words)
    rated, turns = talks(HOSTILE)
    scheduled = [_scheduled(draw, position) for position in range(256)]
    trained = [_trained(draw, position, pair) for position, pair in enumerate(scheduled)]
    steps = [_step(trained[8 * step : 8 * step + 8], step) for step in range(32)]
    return ReportData(
        title="quickstart: MixDPO on verifiable tasks",
        config_name="configs/quickstart.yaml",
        config={"data": {"source": "verifiable", "limit": 256}, "objective": {"preset": "mixdpo"}, "seed": 0},
        provenance={"git commit": "3f1c2d9a", "torch": "2.13.0", "host": "2 CPU cores", "note": HOSTILE[1]},
        objective=Objective("mixdpo", {"beta": 0.1, "gamma0": 0.4, "tau": 2.0, "sft share": 1 / 3}),
        stages=[
            StageRun(
                stage, "quickstart", f"{index:02d}9c51d07ab3e4f2", f"artifacts/{stage}/quickstart-{index:02d}9c51d0",
                seconds, rows, tokens,
            )
            for index, (stage, seconds, rows, tokens) in enumerate(_STAGES)
        ],
        sampled=own_answers(HOSTILE),
        ledger=Ledger(read=460, kept=448, dropped={"prompt too long": 9, "chosen equals rejected": 3}),
        scheduled=described([(pa.Table.from_pylist(scheduled), scores(scheduled))]),
        steps=pa.Table.from_pylist(steps),
        trained_pairs=pa.Table.from_pylist(trained),
        held_out=HeldOut(96, HeldOutState(0.51, 0.0, -41.2, -43.9), HeldOutState(0.885, 2.31, -28.7, -54.5)),
        ranked=[Ranked(HOSTILE[0], ["log-ratio sum", "log-prob mean"], "log-ratio sum", _RANKED, [HOSTILE[1]])],
        elsewhere=Elsewhere(
            [
                Compared("gsm8k", "exact_match,strict-match", Score(0.31, 0.013), Score(0.24, 0.012), True),
                Compared(HOSTILE[0], "word_perplexity", Score(18.2, None), Score(19.9, None), False),
            ],
            {"base": HOSTILE[1], "trained": "train/quickstart-0123456789ab/model"},
        ),
        benchmark=Benchmark(
            name="verifiable",
            questions=160,
            models={
                "base": ModelScore(Interval(0.131, 0.098, 0.166), Interval(0.056, 0.025, 0.094), 27.56, BASE),
                "trained": ModelScore(Interval(0.683, 0.631, 0.735), Interval(0.431, 0.356, 0.506), 12.4, TRAINED),
            },
            comparison=WinRate(wins=124, ties=28, losses=8, rate=Interval(0.8625, 0.819, 0.903)),
            baselines=[Baseline("empty answer", "", 0.083, 0.0), Baseline("best constant answer", "yes", 0.214, 0.031)],
            kinds=[
                KindScore(kind, draw.randint(14, 34), 0.3 * draw.random(), min(1.0, 0.15 + 0.85 * draw.random()))
                for kind in (*_KINDS, "<b>bold</b>")
            ],
            judged=Judged(
                *("<i>judge</i>", "widemargin's own", "games", 180_018, 3_404),
                matches=[Match("trained", "base", Interval(0.713, 0.664, 0.759), 151, 320, 0, 11, 2, 0.561)],
            ),
        ),
        asked=[
            Asked(
                "alpaca_eval",
                questions,
                "CC BY-NC 4.0",
                {"base": Looks(211.0, 1, BASE), "trained": Looks(188.5, 0, TRAINED)},
                compared,
            ),
            Asked(
                "mt_bench",
                3,
                "Apache-2.0",
                {"base": Looks(211.0, 1, BASE), "trained": Looks(188.5, 0, TRAINED)},
                rated,
            ),
            Asked("mine", 3, "", {"base": Looks(8.0, 0, BASE), "trained": Looks(9.0, 0, TRAINED)}),
        ],
        samples=[*(_sample(draw, index) for index in range(24)), *answers, *turns],
        not_shown=136,
        notes=["trained: 4 of 160 answers were cut at the token limit", HOSTILE[0]],
    )  # fmt: skip


def _scheduled(draw: random.Random, position: int) -> dict[str, Any]:
    margin = round(draw.betavariate(1.6, 2.2), 2)
    route: Route = "drop" if margin < 0.03 else "sft" if margin < 0.25 and position >= 64 else "preference"
    return {"pair_id": f"{position:032x}", "margin": margin, "route": route, "flipped": draw.random() < 0.05}


def scores(scheduled: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Pairs of these margins, as prepare has them."""
    columns = {"pair_id": pa.string(), "chosen_score": pa.float64(), "rejected_score": pa.float64()}
    rows = [{"pair_id": pair["pair_id"], "chosen_score": pair["margin"], "rejected_score": 0.0} for pair in scheduled]
    return pa.Table.from_pylist(rows, pa.schema(columns))


def _trained(draw: random.Random, position: int, pair: Mapping[str, Any]) -> dict[str, Any]:
    gap = draw.gauss(0.09 * (position // 8), 0.6)
    margin = 0.4 + 0.9 / (1 + math.exp(2 - 2 * gap))
    weight = 1 / (1 + math.exp(gap - margin))
    row = {"step": position // 8, "position": position, "pair_id": pair["pair_id"], "route": pair["route"]}
    kept = (
        {"gap": gap, "margin": margin, "weight": weight}
        if pair["route"] == "preference"
        else dict.fromkeys(("gap", "margin", "weight"))
    )
    return {**row, "flipped": pair["flipped"], "loss": -math.log(1 - weight + 1e-9), **kept}


def _step(rows: list[dict[str, Any]], step: int) -> dict[str, Any]:
    gaps = [row["gap"] for row in rows if row["gap"] is not None]
    sft = sum(row["route"] == "sft" for row in rows)

    def mean(column: str) -> float | None:
        return sum(row[column] for row in rows if row[column] is not None) / len(gaps) if gaps else None

    return {
        "step": step,
        "loss": sum(row["loss"] for row in rows) / len(rows),
        "learning_rate": 3e-5 * min((step + 1) / 4, (32 - step) / 28),
        "grad_norm": 4.0 / (1 + 0.1 * step) + 0.3 * math.sin(step),
        "preference_pairs": len(gaps),
        "sft_pairs": sft,
        "accuracy": sum(gap > 0 for gap in gaps) / len(gaps) if gaps else None,
        "gap": mean("gap"),
        "margin": mean("margin"),
        "gap_flipped": next((row["gap"] for row in rows if row["flipped"] and row["gap"] is not None), None),
        "weak_share": sum(row["weight"] < 0.05 for row in rows if row["weight"] is not None) / len(gaps)
        if gaps
        else None,
        "noise_rate": 0.2 * math.exp(-0.1 * step) if gaps else None,
        "nll": 2.9 * math.exp(-0.05 * step) if sft else None,
        "tokens": 520,
        "seconds": 5.6,
    }


def _sample(draw: random.Random, index: int) -> Sample:
    topic = ("rivers", "chess", "bread", "the moon", "bicycles", "tea")[index % 6]
    wordings = ("Write only in lower case.", f'Use the word "{topic}".', "Give a bullet list of exactly 2 items.")

    def answer(chance: float, text: str, finish_reason: str) -> Answer:
        return Answer(text, finish_reason, [Rule(wording, draw.random() < chance) for wording in wordings])

    long = f"{topic.capitalize()} are among the most fascinating things there are, and I would be happy to tell you"
    base = answer(0.35, HOSTILE[index] if index < len(HOSTILE) else long, "length")
    trained = answer(0.65, "" if index == 6 else f"- {topic} are old\n- {topic} are loved", "stop")
    question = f"Tell me about {topic}.\nWrite only in lower case. Use the word. " + ("W" * 300 if index == 7 else "")
    said = HOSTILE[index] if index < len(HOSTILE) else "Both will do."
    verdict = Verdict("trained", "base", (0.5, 1.0, 0.25, None)[index % 4], [Saying("shown first", said)])
    return Sample(question, {"base": base, "trained": trained}, "verifiable", verdicts=[verdict])
