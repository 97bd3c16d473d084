"""Small tokenizers of the families that behave apart, and chat templates put together from a small grammar."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "Name a colour. Blue. A banana. Red is a colour, the sky is blue and so is the sea!",
    "user assistant system: You are a friendly chatbot. think hard, [INST] answer in one word [/INST] ### Question",
    "x = 1\n\n**b** <think>\n</think>\n",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def _sentencepiece(prepend: str) -> Tokenizer:
    """As Llama 2 and Mistral have it; `prepend` says where a space is put before a text that has none."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prepend == "normalizer":  # before each text between two control tokens, as older conversions do
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=prepend, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    # The bytes are ordinary tokens: they are put into the vocabulary, not among the added ones.
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, special_tokens=[*SPECIAL, *BYTES]))
    return _without_added_bytes(tokenizer)


def _without_added_bytes(tokenizer: Tokenizer) -> Tokenizer:
    import json

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in BYTES]
    return Tokenizer.from_str(json.dumps(state))


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _wordpiece() -> Tokenizer:
    """Loses white space: few causal models have it, and none should be trained wrongly for that."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL))
    return tokenizer


FAMILIES = {
    "byte-level": _byte_level,
    "sentencepiece-first": lambda: _sentencepiece("first"),
    "sentencepiece-always": lambda: _sentencepiece("always"),
    "sentencepiece-never": lambda: _sentencepiece("never"),
    "sentencepiece-normalizer": lambda: _sentencepiece("normalizer"),
    "unigram": _unigram,
    "wordpiece": _wordpiece,
}


@cache
def backend(family: str) -> Tokenizer:
    return FAMILIES[family]()


def tokenizer(family: str, template: str | None = None, **special: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of a family, with <s>, </s>, <|im_start|> and <|im_end|> as control tokens; `eos_token` is </s>."""
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"} | special
    made = PreTrainedTokenizerFast(tokenizer_object=backend(family), **names)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


@dataclass(frozen=True)
class Grammar:
    """A chat template: what is written around a message, and what is done with it."""

    before: str  # a message; ROLE stands for its role
    after: str  # a message
    end: str  # an answer: what of `after` ends it, or nothing
    begin: str = ""  # of a conversation
    close: str = ""  # of a conversation that is not asked to go on
    trims: bool = False
    system: str = "kept"  # or merged into the first question, dropped, refused
    thoughts: str = "none"  # or a block before the last answer, one that is opened for the answer, one taken out

    @property
    def source(self) -> str:
        content = "m.content | trim" if self.trims else "m.content"
        if self.thoughts in ("opened", "taken-out"):
            content = f"(m.content.split('</think>')[-1] if m.role == 'assistant' else {content})"
        block = "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
        before = self.before.replace("ROLE", "{{ m.role }}")
        header = self.before.replace("ROLE", "assistant") + ("<think>\n" if self.thoughts == "opened" else "")
        skip = {"dropped": "{% if m.role != 'system' %}", "merged": "{% if m.role != 'system' %}"}.get(self.system, "")
        refuse = "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        merged = (
            "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
            if self.system == "merged"
            else ""
        )
        return (
            f"{self.begin}{{% for m in messages %}}"
            + (refuse if self.system == "refused" else "")
            + skip
            + before
            + merged
            + (block if self.thoughts == "block" else "")
            + f"{{{{ {content} }}}}{self.after}"
            + ("{% endif %}" if skip else "")
            + f"{{% endfor %}}{{% if add_generation_prompt %}}{header}{{% else %}}{self.close}{{% endif %}}"
        )
