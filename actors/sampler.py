"""The sampler: an actor that holds one vLLM engine and samples the answers to one shard of prompts a call."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.engine import Completion, Engine, EngineSpec
from actors.pooled import Pooled
from pipeline.onpolicy.branches import cuts
from pipeline.onpolicy.candidates import Row, answered, seed_of
from pipeline.preferences.messages import Dropped
from pipeline.results import tables


@dataclass(frozen=True)
class SamplerSpec:
    engine: EngineSpec
    folder: str  # where finished shards go
    answered_by: str  # model | against
    sampling: dict[str, Any]  # what vLLM's SamplingParams take, but for seeds
    seed: int
    cuts: int  # of each answer, from which `children` others go on
    children: int


@dataclass(frozen=True)
class _Ask:
    """One request: the shared columns of its prompt, what goes before the answer, and what its seed is keyed by."""

    asked: Row
    prompt_ids: list[int]
    sample: int
    key: tuple[object, ...]
    prefix: str = ""
    prefix_ids: tuple[int, ...] = ()
    prefix_logp: float = 0.0
    parent: str | None = None


class Sampler(Pooled):
    def open(self, spec: SamplerSpec) -> None:
        self.spec, self.engine = spec, Engine(spec.engine)

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Samples `first` to `last` of a shard of `prompts` (JSON: messages, and columns of tables.CANDIDATES), all by
        one call of the engine; then what goes on from them, by a second."""
        self.engine.forget()
        prompts = json.loads(work["prompts"])
        laid_out = [(prompt["columns"], self._ids(prompt["messages"])) for prompt in prompts]
        trunks = [
            _Ask(asked, ids, sample, (asked["prompt_id"], sample))
            for asked, ids in laid_out
            for sample in range(work["first"], work["last"])
        ]
        answers = self._answers(trunks)
        rows = [self._row(*each) for each in answers]
        branches = [child for each, row in zip(answers, rows, strict=True) for child in self._children(*each, row)]
        rows += [self._row(*each) for each in self._answers(branches)]
        tables.write(rows, tables.CANDIDATES, Path(self.spec.folder) / work["part"])
        return {"rows": len(rows), "tokens": sum(row["tokens"] - (row["prefix_tokens"] or 0) for row in rows)}

    def _ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        ids = self.engine.tokeniser.prompt(messages)
        if isinstance(ids, Dropped):  # it was rendered before it came here
            raise RuntimeError(f"a prompt that was rendered before is not any more: {ids.reason} ({ids.detail})")
        return ids

    def _answers(self, asks: Sequence[_Ask]) -> list[tuple[_Ask, int, Completion]]:
        """Each request with its seed and its answer, in order."""
        seeds = [seed_of(self.spec.answered_by, self.spec.seed, *ask.key) for ask in asks]
        most = self.spec.sampling["max_tokens"]
        sampling = [
            {**self.spec.sampling, "max_tokens": most - len(ask.prefix_ids), "seed": seed, "logprobs": 0}
            for ask, seed in zip(asks, seeds, strict=True)
        ]
        found = []
        answers = self.engine.go_on([[*ask.prompt_ids, *ask.prefix_ids] for ask in asks], sampling) if asks else []
        for ask, seed, answer in zip(asks, seeds, answers, strict=True):
            if isinstance(answer, Dropped):  # its room was looked at before
                raise RuntimeError(f"prompt {ask.asked['prompt_id']}: {answer.reason} ({answer.detail})")
            found.append((ask, seed, answer))
        return found

    def _row(self, ask: _Ask, seed: int, answer: Completion) -> Row:
        return answered(
            ask.asked,
            f"{ask.prefix}{answer.text}",
            [*ask.prefix_ids, *answer.ids],
            answered_by=self.spec.answered_by,
            sample=ask.sample,
            finish_reason=answer.finish_reason,
            seed=seed,
            logp=ask.prefix_logp + math.fsum(answer.logps),
            parent=ask.parent,
            prefix_tokens=len(ask.prefix_ids) if ask.parent else None,
        )

    def _children(self, ask: _Ask, _: int, answer: Completion, row: Row) -> Iterator[_Ask]:
        """The requests that go on from an answer's cuts."""
        tokeniser = self.engine.tokeniser
        pieces = [str(piece) for piece in tokeniser.tokenizer.convert_ids_to_tokens(list(answer.ids))]
        for place in cuts(pieces, self.spec.cuts, self.spec.seed, *ask.key):
            ids = answer.ids[:place]
            decoded = tokeniser.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            prefix = str(decoded).removeprefix(tokeniser.left_to_answer)
            if not answer.text.startswith(prefix):  # such as where a text of sample.stop ended it before
                continue
            for child in range(self.spec.children):
                key = (*ask.key, place, child)
                logp = math.fsum(answer.logps[:place])
                yield _Ask(ask.asked, ask.prompt_ids, child, key, prefix, ids, logp, row["candidate_id"])
