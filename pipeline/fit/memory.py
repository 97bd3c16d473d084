"""What one worker holds at its fullest, in bytes by what it is for. docs/planning.md has the formulas.

P parameters, of which a part is trained; L layers of width d; T packed tokens of a forward, N of them of completions;
c positions whose logits exist at a time, V the vocabulary; b bytes of a number that is computed with.
"""

import math
from dataclasses import dataclass, field

from pipeline.fit.devices import GIB
from pipeline.fit.setup import Setup
from pipeline.fit.shape import Shape
from pipeline.line.check_adapters import names_layer
from pipeline.settings.resources import WHOLE_GRADIENTS
from pipeline.settings.training import Lora

Parts = dict[str, float]

MIB = 1 << 20
# torch, transformers, pyarrow and ray in a process, and the code that is read in while it scores and while it trains:
# measured, with torch 2.13 for CPUs.
LIBRARIES, SCORING, TRAINING = 620 * MIB, 30 * MIB, 70 * MIB
LIBRARIES_GPU = 3 * GIB  # the same with CUDA's libraries and pinned buffers: not measured
CONTEXT = 1.5 * GIB  # CUDA's context and NCCL's buffers on a GPU: not measured
SPARE = 0.1  # of a GPU, lost to holes between tensors
ENGINE = 1.5 * GIB  # vLLM beside weights and cache


@dataclass(frozen=True)
class Pack:
    """The fullest forward of a stage: packed tokens, and those of completions.

    On a CPU, which attends a side at a time: keys, the prompt's once a side, and the numbers in the masks that the
    rejected sides take.
    """

    tokens: int
    scored: int
    keys: int
    masked: int = 0


@dataclass(frozen=True)
class Need:
    """What a worker holds, by what it is for; `gpu` is empty on a CPU."""

    host: Parts
    gpu: Parts = field(default_factory=dict)

    @property
    def host_bytes(self) -> float:
        return sum(self.host.values())

    @property
    def gpu_bytes(self) -> float:
        return sum(self.gpu.values())


def adapters(shape: Shape, lora: Lora) -> int:
    """Parameters of low-rank adapters: two matrices for each that is adapted, experts not among them."""
    layers = [lora.layers] if isinstance(lora.layers, str) else lora.layers

    def adapted(name: str) -> bool:
        return lora.layers == "all-linear" or any(names_layer(lora.layers, layer, name) for layer in layers)

    return sum(lora.rank * (wide + out) for name, wide, out in shape.linear if adapted(name))


def states(shape: Shape, setup: Setup) -> Parts:
    """Weights, gradients and the optimiser's state of one worker: its share where they are sharded."""
    share = 1 / setup.shard if setup.sharded else 1.0
    trained = adapters(shape, setup.lora) if setup.lora else shape.parameters
    frozen = setup.compute * shape.parameters if setup.lora else 0
    return {
        "weights": share * (setup.master * trained + frozen),
        "gradients": share * setup.master * trained,
        "optimiser": share * setup.moments * trained,
    }


def activations(shape: Shape, setup: Setup, pack: Pack) -> float:
    """What the layers keep for their backward.

    Counted tensor by tensor as autograd keeps them for a Llama's layer: two norms' input, quotient and product;
    queries, keys, values and what attention gives, once as it is and once as the output layer's input; and the MLP's.
    """
    b, d, query, kv = setup.compute, shape.width, shape.query, shape.key_value
    norms = 2 * d * ((4 + b + b) if b < 4 else 3 * b)  # in bfloat16 a norm goes through float32
    keys, masks = (pack.tokens, 0) if setup.device.is_gpu else (pack.keys, b * pack.masked)
    attention = b * (3 * query * pack.tokens + 2 * kv * keys) + masks + 4 * shape.heads * pack.tokens
    inner = b * (4 if shape.gated else 2) * shape.inner * pack.tokens
    whole = norms * pack.tokens + attention + inner
    again = math.ceil(shape.layers / setup.recompute) if setup.recompute else 0
    inputs = 0 if setup.offload_activations else again * b * d * pack.tokens
    return whole * (shape.layers - again + (1 if again else 0)) + inputs  # one at a time is whole again


def head(shape: Shape, setup: Setup, pack: Pack, fused: bool, learns: bool) -> float:
    """Logits and log-probs of one chunk, and the hidden states they come from."""
    chunk = math.ceil(pack.scored / max(1, math.ceil(pack.scored / setup.logits_chunk)))
    hidden = setup.compute * shape.width * (pack.tokens + pack.scored)
    if fused:  # a gradient of the hidden states, and of the head's weights in float32
        of_weights = 4 * shape.vocabulary * shape.width if learns else 0
        return hidden + setup.compute * shape.width * pack.scored + of_weights
    narrow = setup.compute if setup.compute < 4 else 0  # logits before they are made float32
    return hidden + chunk * shape.vocabulary * (narrow + 2 * max(4, setup.compute))


def train_worker(shape: Shape, setup: Setup, pack: Pack, batches: int, data: float) -> Need:
    """A train worker at the fuller of two moments: a micro-batch's forward is done, or its backward is.

    `pack` is its fullest micro-batch, of `batches` at a step; `data` are bytes of tables. The head is taken to be fused
    on a GPU, where nothing is adapted in it.
    """
    held, b = states(shape, setup), setup.compute
    kept, on_gpu = activations(shape, setup, pack), setup.device.is_gpu
    logits = head(shape, setup, pack, on_gpu, setup.lora is None)
    rest = {} if setup.sharded and setup.cpu_offload else held
    forward, backward = rest | {"activations": kept, "head": logits}, dict(rest)
    if batches == 1:  # the step's gradients come while activations go
        forward.pop("gradients", None)
    if setup.sharded:
        # A gradient as it is computed, and in float32 as the workers sum it: of a layer, at last of the root.
        passing = 0.0 if setup.lora else b + 4.0
        forward |= {"gathered": b * (shape.root + 2.0 * shape.layer), "passing": passing * shape.layer}
        backward |= {"gathered": b * 1.0 * shape.root, "passing": passing * shape.root}
        whole = held["gradients"] * setup.shard
        fits = whole <= WHOLE_GRADIENTS * setup.device.memory if on_gpu else True
        if batches > 1 and (fits if setup.whole_gradients is None else setup.whole_gradients):
            forward["gradients"] = whole  # shared out at the end of the step
    else:  # a gradient that is just made is not yet added to what is there
        forward["passing"] = backward["passing"] = held["gradients"] / shape.parameters * shape.largest
    if not on_gpu:
        # What activations leave in glibc's heap the next micro-batch's do not fit into: gradients lie in between.
        forward["holes"] = backward["holes"] = kept
    fuller = max(forward, backward, key=lambda parts: sum(parts.values()))
    host = {"data": data} | (held if setup.cpu_offload else {})
    if setup.offload_activations:
        host["activations"] = b * shape.width * pack.tokens * shape.layers / max(1, setup.recompute)
    return _placed(setup, fuller, TRAINING, host)


def scorer(shape: Shape, setup: Setup, pack: Pack) -> Need:
    """A scorer: weights, what a layer is made of while it is computed, and one chunk of logits."""
    spread = setup.gpus_per_actor if setup.device.is_gpu else 1
    share = shape.parameters / spread + (shape.root if spread > 1 else 0)
    inner = (3 if shape.gated else 2) * shape.inner
    parts = {
        "weights": setup.compute * share,
        "activations": setup.compute * pack.tokens * (3.0 * shape.width + max(inner, 3 * shape.query)),
        "head": head(shape, setup, pack, fused=False, learns=False),
    }
    return _placed(setup, parts, SCORING, {})


def _placed(setup: Setup, parts: Parts, code: float, host: Parts) -> Need:
    """The parts where they are: on the GPU beside its context and holes, or on the host beside its libraries."""
    if not setup.device.is_gpu:
        return Need({"libraries": LIBRARIES + code, **host, **parts})
    gpu = {"context": CONTEXT, **parts, "holes": SPARE * sum(parts.values())}
    return Need({"libraries": LIBRARIES_GPU, **host}, gpu)


def engine(shape: Shape, setup: Setup, room: int, cache_gib: float, compute: int) -> Need:
    """A vLLM engine: weights, and a cache of keys and values; on a GPU one conversation of `room` tokens at least."""
    a_token = 2 * 2 * shape.layers * shape.key_value
    if not setup.device.is_gpu:
        return Need(
            {"libraries": LIBRARIES, "engine": ENGINE, "weights": compute * shape.parameters, "cache": cache_gib * GIB}
        )
    spread = setup.gpus_per_actor
    parts = {"context": CONTEXT, "engine": ENGINE, "weights": compute * shape.parameters / spread}
    return Need({"libraries": LIBRARIES_GPU}, parts | {"cache": a_token * room / spread})
