"""What sample, rate and pair write, of plausible shape: 120 prompts, five answers each and branches, two raters."""

import random
from collections.abc import Sequence

import pyarrow as pa

from pipeline.onpolicy.describing import OF_CANDIDATES, OF_PAIRS, Described, describe


def own_answers(hostile: Sequence[str], prompts: int = 120) -> Described:
    draw = random.Random("sampled")
    answers, pairs = [], []
    scores: dict[str, list[dict[str, object]]] = {"rules": [], hostile[2]: []}
    for prompt in range(prompts):
        own = []
        for sample in range(7):
            tokens, name = draw.randint(4, 48), f"{prompt}/{sample}"
            finish = "length" if tokens > 40 else "stop"
            parent = f"{prompt}/0" if sample > 4 else None
            answers.append((f"p{prompt}", name, "model", tokens, finish, -1.4 * tokens * draw.random(), parent))
            met = draw.choice([0.0, 0.0, 1 / 3, 0.5, 1.0]) if prompt % 4 else 0.0
            scores["rules"].append({"candidate_id": name, "score": met})
            scores[hostile[2]].append({"candidate_id": name, "score": draw.gauss(3 * met, 2) + tokens / 20})
            own.append((met, name, tokens))
        best, worst = max(own), min(own)
        if best[0] > worst[0]:
            pairs.append((best[1], worst[1], best[0] - worst[0], best[2], worst[2], draw.choice([0, 0, 1, 9, 14])))
    unpaired = {"all-equal": prompts - len(pairs) - 5, hostile[3]: 5}
    ledger = {"prompts": prompts, "paired": len(pairs), "pairs": len(pairs), "beyond_cap": 3, "unpaired": unpaired}
    return describe(
        pa.table(dict(zip(OF_CANDIDATES, map(list, zip(*answers, strict=True)), strict=True))),
        {rater: pa.Table.from_pylist(rows) for rater, rows in scores.items()},
        pa.table(dict(zip(OF_PAIRS, map(list, zip(*pairs, strict=True)), strict=True))),
        ledger,
    )
