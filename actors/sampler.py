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
from pipeline.onpolicy.candidates import Row, answered, candidate_id, seed_of, text_of
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
    """One request: the shared columns of its prompt, and what its seed is keyed by; of a branch, where it begins."""

    columns: Row
    prompt_ids: list[int]
    sample: int
    key: tuple[object, ...]
    prefix_ids: tuple[int, ...] = ()
    prefix_logp: float = 0.0
    parent: str | None = None


@dataclass(frozen=True)
class _Answer:
    ask: _Ask
    seed: int
    said: Completion
    text: str  # with what it goes on from

    def row(self, answered_by: str) -> Row:
        ask, said = self.ask, self.said
        return answered(
            ask.columns,
            self.text,
            [*ask.prefix_ids, *said.ids],
            answered_by=answered_by,
            sample=ask.sample,
            finish_reason=said.finish_reason,
            seed=self.seed,
            logp=ask.prefix_logp + math.fsum(said.logps),
            parent=ask.parent,
            prefix_tokens=len(ask.prefix_ids) if ask.parent else None,
        )


class Sampler(Pooled):
    def open(self, spec: SamplerSpec) -> None:
        self.spec, self.engine = spec, Engine(spec.engine)

    def make(self, work: dict[str, Any]) -> dict[str, Any]:
        """Samples `first` to `last` of a shard of `prompts` (JSON: messages, and columns of tables.CANDIDATES), all by
        one call of the engine; then what goes on from them, by a second."""
        self.engine.forget()
        laid_out = [(each["columns"], self._ids(each["messages"])) for each in json.loads(work["prompts"])]
        trunks = self._answers(
            [
                _Ask(columns, ids, sample, (columns["prompt_id"], sample))
                for columns, ids in laid_out
                for sample in range(work["first"], work["last"])
            ]
        )
        branches = self._answers([branch for trunk in trunks for branch in self._branches(trunk)])
        rows = [each.row(self.spec.answered_by) for each in (*trunks, *branches)]
        tables.write(rows, tables.CANDIDATES, Path(self.spec.folder) / work["part"])
        return {"rows": len(rows), "tokens": sum(row["tokens"] - (row["prefix_tokens"] or 0) for row in rows)}

    def _ids(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        ids = self.engine.tokeniser.prompt(messages)
        if isinstance(ids, Dropped):  # it was rendered before it came here
            raise RuntimeError(f"a prompt that was rendered before is not any more: {ids.reason} ({ids.detail})")
        return ids

    def _answers(self, asks: Sequence[_Ask]) -> list[_Answer]:
        """An answer to each request, in order, by one call."""
        seeds = [seed_of(self.spec.answered_by, self.spec.seed, *ask.key) for ask in asks]
        # The engine makes texts, token by token, only where it has to look for one in them. They are not read.
        shared = {**self.spec.sampling, "logprobs": 0, "detokenize": bool(self.spec.sampling["stop"])}
        most = shared["max_tokens"]
        sampling = [
            {**shared, "max_tokens": most - len(ask.prefix_ids), "seed": seed}
            for ask, seed in zip(asks, seeds, strict=True)
        ]
        found = []
        said = self.engine.go_on([[*ask.prompt_ids, *ask.prefix_ids] for ask in asks], sampling) if asks else []
        for ask, seed, answer in zip(asks, seeds, said, strict=True):
            if isinstance(answer, Dropped):  # its room was looked at before
                raise RuntimeError(f"prompt {ask.columns['prompt_id']}: {answer.reason} ({answer.detail})")
            ended = answer.finish_reason == "stop"
            text = text_of(self.engine.tokeniser, answer.ids, ended, answer.stop, ask.prefix_ids)
            found.append(_Answer(ask, seed, answer, text))
        return found

    def _branches(self, trunk: _Answer) -> Iterator[_Ask]:
        """The requests that go on from an answer's cuts."""
        tokeniser, ask, said = self.engine.tokeniser, trunk.ask, trunk.said
        if not self.spec.cuts:
            return
        pieces = [str(piece) for piece in tokeniser.tokenizer.convert_ids_to_tokens(list(said.ids))]
        parent = candidate_id(ask.columns["prompt_id"], said.ids)
        for place in cuts(pieces, self.spec.cuts, self.spec.seed, *ask.key):
            if not trunk.text.startswith(tokeniser.text(said.ids[:place])):  # a text of sample.stop ended it before
                continue
            logp = math.fsum(said.logps[:place])
            for child in range(self.spec.children):
                key = (*ask.key, place, child)
                yield _Ask(ask.columns, ask.prompt_ids, child, key, said.ids[:place], logp, parent)
