"""How answers are sampled: by the settings, by a question's own temperature, and by the presets of papers.

A preset (`generate.preset`) is how the SimPO work (Meng et al. 2024, arXiv 2405.14734) answered AlpacaEval 2 with a
family of models: its configurations in eval/alpacaeval2/configs of princeton-nlp/SimPO and, for Gemma-2, in
models_configs/gemma-2-9b-it-SimPO of the package alpaca-eval 0.6.6.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.evaluation.benchmarks.questions import Question
from pipeline.settings.evaluation import PLAIN, Generate
from pipeline.settings.inputs import EMBEDDED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sampling:
    """What vLLM's SamplingParams take, by their names there."""

    temperature: float
    top_p: float
    max_tokens: int  # of one answer
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]  # end an answer, beside the model's own ends and that of a turn


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # <|end_of_text|> and <|eot_id|>
    "llama-3-instruct": PLAIN | {"temperature": 0.9, "max_new_tokens": 4096, "stop_token_ids": (128001, 128009)},
    "mistral-base": PLAIN | {"temperature": 0.7, "max_new_tokens": 2048},
    "mistral-instruct": PLAIN | {"temperature": 0.5, "max_new_tokens": 2048},
    # <eos> and <end_of_turn>
    "gemma-2": PLAIN | {"temperature": 0.5, "max_new_tokens": 4096, "stop_token_ids": (1, 107)},
}

# What a benchmark asks of every family: eval/arenahard/configs of SimPO (for v0.1; v2.0 is taken to be alike), and the
# default of FastChat's gen_model_answer.py. MT-Bench's temperatures come with its questions.
OWN: Mapping[str, Mapping[str, Any]] = {
    "arena_hard_v0.1": {"temperature": 0.0, "max_new_tokens": 4096},
    "arena_hard_v2.0": {"temperature": 0.0, "max_new_tokens": 4096},
    "mt_bench": {"max_new_tokens": 1024},
}


def check_family(preset: str, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError where a token that would end answers is one that this model writes answers with."""
    for token in PRESETS[preset]["stop_token_ids"]:
        if token not in tokenizer.added_tokens_decoder:
            found = repr(tokenizer.convert_ids_to_tokens(token)) if token < len(tokenizer) else "none"
            raise UserError(
                f"generate.preset={preset} ends answers at token {token}, which here is no control token but {found}",
                "choose the preset of the model's own family, or set temperature and max_new_tokens without one",
            )


def sampling(settings: Generate, benchmark: str, question: Question) -> Sampling:
    """How an answer to a question is sampled.

    The question's own temperature comes first, then what the settings say, then the benchmark's share of the preset and
    the preset. The embedded tasks, which no paper answered, know the settings alone.
    """
    known = dict(PLAIN)
    if settings.preset and benchmark != EMBEDDED:
        known |= {**PRESETS[settings.preset], **OWN.get(benchmark, {})}
    known |= {name: value for name in PLAIN if (value := getattr(settings, name)) is not None}
    if question.temperature is not None:
        known["temperature"] = question.temperature
    return Sampling(
        temperature=known["temperature"],
        top_p=known["top_p"],
        max_tokens=known["max_new_tokens"],
        stop=settings.stop,
        stop_token_ids=tuple(known["stop_token_ids"]),
    )
