"""A small check of a loaded model, before anything is computed with it: does the packed path give its own log-probs?

A model may run attention of its own beside transformers' interface, and then sees other pairs of the pack; it may scale
its logits after the output head, or add to attention what the packed one does not know. All would train silently wrong.
"""

import torch
from transformers import PreTrainedModel

from pipeline.compute.attention import NAME
from pipeline.compute.layout import Tokens, lay_out
from pipeline.compute.logprobs import side_sums, token_logps
from pipeline.errors import UserError

# |difference| in nats a token that is rounding, by dtype of the weights; what is looked for is far larger.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2}


@torch.no_grad()  # not inference mode: a buffer the forward renews there could not be trained with
def check_packing(model: PreTrainedModel) -> None:
    """Raise UserError where the last side of a pack scores otherwise than by the model's own forward, alone.

    The last side comes after another pair and after its own chosen side, so that it would see either if it could.
    """
    ids = [(7919 * i + 13) % model.config.get_text_config().vocab_size for i in range(24)]
    prompt, rejected = ids[12:16], ids[20:]
    pack = lay_out([Tokens(ids[:4], ids[4:8], ids[8:12]), Tokens(prompt, ids[16:20], rejected)], model.device)
    packed = float(side_sums(token_logps(model, pack, chunk=256), pack)[1, 1])
    off = abs(packed - _alone(model, prompt, rejected)) / len(rejected)
    tolerance = _TOLERANCE[next(model.parameters()).dtype]
    if not off <= tolerance:  # also where it is not a number
        raise UserError(
            f"{type(model).__name__} scores a completion {off:.2g} nats a token otherwise in a pack than by itself; "
            f"{tolerance:g} would be rounding",
            "its forward does more than packed attention and a plain output head: use another model, such as a Llama",
        )


def _alone(model: PreTrainedModel, prompt: list[int], completion: list[int]) -> float:
    """The completion's log-prob sum, in nats, by the model's own forward and eager attention."""
    ids = torch.tensor([prompt + completion], device=model.device)
    model.set_attn_implementation("eager")
    try:
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    finally:
        model.set_attn_implementation(NAME)
    return float(logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None]).double().sum())
