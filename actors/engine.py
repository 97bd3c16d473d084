"""A vLLM engine inside an actor: conversations in, texts out. What an actor does with them is its own affair."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.errors import UserError, memory_for
from pipeline.evaluation.benchmarks.thoughts import Token, first_word
from pipeline.preferences.messages import Dropped, Message
from pipeline.preferences.tokenise import open_tokeniser

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput
    from vllm.logprobs import Logprob

# What to do about a model that is too large for where an engine runs.
LARGE = (
    "raise resources.gpus_per_actor, over which an engine lays a model, or give the model dtype=bfloat16, which takes "
    "half of float32's memory; where others use the GPU lower resources.gpu_memory_fraction"
)
BATCHED_TOKENS = 4096  # of a step of the engine on a CPU, as vLLM has it


@dataclass(frozen=True)
class EngineSpec:
    model: str  # a folder in Hugging Face format
    dtype: Literal["float32", "bfloat16"]
    rendering: dict[str, Any]  # as Model.rendering
    max_model_len: int  # tokens of a conversation, the answer included
    gpus: float  # the engine is laid over as many
    gpu_memory_fraction: float  # of that share of a GPU
    seed: int = 0
    adapter: str | None = None  # a folder in PEFT's format: low-rank adapters that are put on the model, never merged


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int
    finish_reason: str  # stop | length
    prompt_tokens: int
    # Log-probs of the likeliest first tokens after any thoughts, by their text; empty where none were asked for.
    first: dict[str, float]
    ids: tuple[int, ...] = ()  # as sampled, with the end token where one ended it
    # Of each of them, in nats, under the model as it is: before temperature and top_p. Empty where none were asked for.
    logps: tuple[float, ...] = ()
    stop: str | None = None  # the text that ended it, where one of `stop` did


def environment(kv_cache_gib: float, threads: int) -> dict[str, str]:
    """What vLLM reads from the environment; given through the actor's runtime environment, never set at import."""
    return {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in the actor, and dies with it
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, round(kv_cache_gib))),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "OMP_NUM_THREADS": str(threads),
    }


class Engine:
    """A vLLM engine of one model. Raises UserError for a model that vLLM does not serve as `spec` asks."""

    def __init__(self, spec: EngineSpec):
        from vllm.lora.request import LoRARequest

        self.room = spec.max_model_len
        self.tokeniser = open_tokeniser(Path(spec.model), self.room, self.room, **spec.rendering)
        self.llm = llm(spec)
        self.adapter = LoRARequest("trained", 1, spec.adapter) if spec.adapter else None

    def answer(
        self, conversations: Sequence[Sequence[Message]], sampling: Sequence[dict[str, Any]]
    ) -> list[Completion | Dropped]:
        """An answer to each conversation, by one call; or why there is none: no token is left for an answer
        (`no-room`), or the chat template does not render the conversation. See `go_on`.
        """
        return self.go_on([self.tokeniser.prompt(messages) for messages in conversations], sampling)

    def forget(self) -> None:
        """Empty the cache of prompts: what a call answers is then a function of the call, not of those before it."""
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM keeps blocks of its cache between two calls")

    def go_on(
        self, conversations: Sequence[Sequence[int] | Dropped], sampling: Sequence[dict[str, Any]]
    ) -> list[Completion | Dropped]:
        """What follows the tokens of each conversation, by one call; one that is Dropped is handed on.

        `sampling` holds what vLLM's SamplingParams take, for each; max_tokens is cut to the room there is. An answer
        ends before the token that ends a turn in training, too: a model need not name it among its own ends of a
        sequence, which are what vLLM goes by.
        """
        from vllm import SamplingParams, TokensPrompt

        asked, prompts, parameters = [], [], []
        answers: list[Completion | Dropped] = []
        for index, (ids, given) in enumerate(zip(conversations, sampling, strict=True)):
            answers.append(ids if isinstance(ids, Dropped) else Dropped("no-room", f"more than {self.room} tokens"))
            if isinstance(ids, Dropped) or (room := self.room - len(ids)) <= 0:
                continue
            asked.append(index)
            prompts.append(TokensPrompt(prompt_token_ids=list(ids)))
            own = {
                "max_tokens": min(given["max_tokens"], room),
                "stop_token_ids": [*given.get("stop_token_ids", ()), self.tokeniser.end_id],
            }
            parameters.append(SamplingParams(**given | own))
        with memory_for("answering, a vLLM engine", LARGE):
            outputs = self.llm.generate(prompts, parameters, use_tqdm=False, lora_request=self.adapter)
        for index, output in zip(asked, outputs, strict=True):
            answers[index] = self._completion(output, several=bool(sampling[index].get("logprobs")))
        return answers

    def _completion(self, output: "RequestOutput", several: bool) -> Completion:
        """`several`: whether log-probs of other tokens than the sampled ones were asked for."""
        (one,) = output.outputs
        # None where none were asked for; the sampled token's alone where none but it was.
        likeliest = list(zip(one.token_ids, one.logprobs or (), strict=False))
        first = first_word([_token(token_id, place) for token_id, place in likeliest if place]) if several else {}
        return Completion(
            one.text.removeprefix(self.tokeniser.left_to_answer),
            len(one.token_ids),
            str(one.finish_reason),
            len(output.prompt_token_ids or ()),
            first,
            tuple(one.token_ids),
            tuple(place[token_id].logprob for token_id, place in likeliest if place),
            one.stop_reason if isinstance(one.stop_reason, str) else None,
        )


def serve_once(spec: EngineSpec) -> None:
    """Answer something with unmerged adapters. Raises UserError, whatever vLLM says, where it cannot."""
    try:
        Engine(spec).answer([[{"role": "user", "content": "x"}]], [{"max_tokens": 1, "temperature": 0.0}])
    except UserError:
        raise
    except Exception as error:  # vLLM finds it out in many places, the last of them a kernel
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"vLLM cannot serve adapters of the model in {spec.model} unmerged ({why})",
            "set train.lora.merge=true, which exports a whole model",
        ) from error


def _token(token_id: int, likeliest: "Mapping[int, Logprob]") -> Token:
    logprobs = {str(each.decoded_token): each.logprob for each in likeliest.values()}
    return str(likeliest[token_id].decoded_token), logprobs


def llm(spec: EngineSpec) -> "LLM":
    """vLLM with a model loaded, and its cache laid out."""
    from vllm import LLM

    try:
        with memory_for(f"loading the model in {spec.model}, a vLLM engine", LARGE):
            return LLM(
                model=spec.model,
                dtype=spec.dtype,
                load_format="safetensors",  # the files that transformers reads; by itself it prefers consolidated ones
                trust_remote_code=spec.rendering["trust_remote_code"],
                seed=spec.seed,
                max_model_len=spec.max_model_len,
                tensor_parallel_size=max(1, int(spec.gpus)),
                gpu_memory_utilization=spec.gpu_memory_fraction * min(1.0, spec.gpus or 1.0),
                enforce_eager=not spec.gpus,  # a CPU has nothing to capture, a GPU gains by CUDA graphs
                disable_log_stats=True,
                **({} if spec.gpus else whole_prompts(spec.max_model_len)),
                **(lora_options(Path(spec.adapter)) if spec.adapter else {}),
            )
    except (ValueError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:300]
        remedy = room_remedy(said, spec) or "see what vLLM supports"
        if spec.adapter:
            remedy += "; or set train.lora.merge=true"
        raise UserError(f"vLLM cannot serve the model in {spec.model} ({said})", remedy) from error


def room_remedy(said: str, spec: EngineSpec) -> str | None:
    """What gives an engine the room that `said`, a ValueError of vLLM's, asks for; None where it asks for none."""
    if "is less than desired GPU memory utilization" in said:  # others are on that GPU
        return f"lower resources.gpu_memory_fraction={spec.gpu_memory_fraction}, or end what else uses the GPU"
    if "No available memory for the cache blocks" in said or "larger than the available KV cache memory" in said:
        if not spec.gpus:
            return "raise resources.kv_cache_gib, or ask for shorter answers"
        more = f"raise resources.gpu_memory_fraction={spec.gpu_memory_fraction} or gpus_per_actor={spec.gpus:g}"
        return f"{more}, or give the model dtype=bfloat16, which takes half of float32's memory"
    return None


def whole_prompts(room: int) -> dict[str, Any]:
    """What keeps vLLM on a CPU from computing a prompt in parts: for a seeded sample it would rewind a generator then,
    which only a GPU's can do, and fail."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(room, BATCHED_TOKENS)}


def lora_options(adapter: Path) -> dict[str, Any]:
    """What vLLM must be told to serve one adapter; it sets aside room for the rank in steps of its own."""
    from vllm.config.lora import MaxLoRARanks

    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(n for n in get_args(MaxLoRARanks) if n >= rank)}
