"""Prompt and completion are the ids of the whole conversation, for random conversations, templates and tokenizers.

The oracle is the tokenizer itself, on the template's rendering of the whole conversation in one piece.
DRAWS=10000 in the environment draws more.
"""

import os
import re
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from pipeline.preferences.messages import Dropped, Message, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.tokenise import Tokeniser
from tests.pipeline.preferences.families import FAMILIES, SPECIAL, Grammar, tokenizer

DRAWS = int(os.environ.get("DRAWS", "400"))

words = st.sampled_from(["Blue", "a colour", "the sky", "x", "1", "Señor", "日本", "😀", "**b**", ".", "[INST]", "a"])
gaps = st.sampled_from(["", " ", "\n", "\n\n", "  ", "\t"])
plain = st.lists(st.tuples(gaps, words), min_size=1, max_size=3).map(lambda parts: "".join(map("".join, parts)))
spelt = st.builds("{}{}{}".format, plain, st.sampled_from([*SPECIAL, "<|im_", "<think>", "</think>"]), plain)
texts = st.one_of(*[plain] * 5, spelt)
answers = texts | texts | st.builds("{}\n</think>\n\n{}".format, plain, plain) | st.builds("{}{}".format, plain, gaps)


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    before, after, end = draw(
        st.sampled_from(
            [
                ("<|im_start|>ROLE\n", "<|im_end|>\n", "<|im_end|>"),
                ("<|im_start|>ROLE\n", "<|im_end|>", "<|im_end|>"),
                ("<|ROLE|>\n", "{{ eos_token }}\n", "</s>"),
                ("ROLE: ", " </s>", " </s>"),
                ("### ROLE:\n", "\n\n", ""),
                ("[ROLE] ", "\n", ""),
                ("\n\nROLE:", "", ""),
            ]
        )
    )
    return Grammar(
        before,
        after,
        end,
        begin=draw(st.sampled_from(["", "{{ bos_token }}", "<|im_start|>system\nYou are kind.<|im_end|>\n"])),
        close=draw(st.sampled_from(["", "</s>"])) if end else "",
        trims=draw(st.booleans()),
        system=draw(st.sampled_from(["kept", "merged", "dropped", "refused"])),
        thoughts=draw(st.sampled_from(["none", "none", "block", "opened", "taken-out"])),
    )


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": draw(texts)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 1))):
        messages += [{"role": "user", "content": draw(texts)}, said(draw(texts))]
    return [*messages, {"role": "user", "content": draw(texts)}]


def spells(*messages: Message) -> bool:
    return any(token in message["content"] for message in messages for token in SPECIAL)


def bare(*messages: Message) -> list[Message]:
    """The messages without what their texts spell of control tokens."""
    return [
        message | {"content": re.sub("|".join(map(re.escape, SPECIAL)), "", message["content"])} for message in messages
    ]


def squeezed(text: str) -> str:
    """Some tokenizers put a space after a control token, also after one that a text only spells."""
    return "".join(text.split())


class Oracle:
    """One tokenizer and template, asked directly."""

    def __init__(self, made: Any, grammar: Grammar):
        self.made, self.grammar = made, grammar

    def ids(self, text: str) -> list[int]:
        return self.made(text, add_special_tokens=False)["input_ids"]

    def text(self, ids: list[int]) -> str:
        return self.made.decode(ids, clean_up_tokenization_spaces=False)

    def turns(self, ids: list[int]) -> list[int]:
        """The control tokens; what stands for unknown characters is none."""
        return [each for each in ids if each in self.made.all_special_ids and each != self.made.unk_token_id]

    def asked(self, messages: list[Message]) -> str:
        return self.made.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def whole(self, messages: list[Message]) -> str:
        """The conversation up to and with what ends its last answer."""
        rendered = self.made.apply_chat_template(messages, tokenize=False)
        after = self.grammar.after.replace("{{ eos_token }}", "</s>") + self.grammar.close
        assert rendered.endswith(after)
        return rendered[: len(rendered) - len(after)] + self.grammar.end

    def closed(self, side: Message) -> str:
        """What goes on from a prompt that has opened thoughts."""
        return side["content"].removeprefix("<think>\n").removeprefix("<think>") + self.grammar.end


@settings(max_examples=DRAWS, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from(sorted(FAMILIES)), grammars(), st.lists(st.tuples(conversations(), answers, answers), min_size=4)
)
def test_prompt_and_completion_are_the_ids_of_the_whole(family: str, grammar: Grammar, talks: list[Any]) -> None:
    made = tokenizer(family, grammar.source)
    tokeniser, oracle = Tokeniser(made, 10_000, 10_000), Oracle(made, grammar)
    for prompt, *sides in talks:
        chosen, rejected = map(said, sides)
        outcome = tokeniser.pair(Preference(tuple(prompt), chosen, rejected))
        if isinstance(outcome, Dropped):
            event(outcome.reason)
            check_drop(outcome.reason, tokeniser, oracle, prompt, (chosen, rejected))
            continue
        event("pair")
        asked = oracle.asked(prompt).removesuffix(tokeniser.left_to_answer)
        ended = [] if grammar.end else [made.eos_token_id]
        for side, ids in ((chosen, outcome.chosen_ids), (rejected, outcome.rejected_ids)):
            whole = oracle.whole([*prompt, side])
            if not whole.startswith(asked):
                assert grammar.thoughts == "opened" and "</think>" in side["content"]
                whole = asked + oracle.closed(side)
            both = [*outcome.prompt_ids, *ids]
            if spells(*prompt, side):  # in plain characters, so other ids, but the same text and no turn more
                if made.unk_token_id not in both:
                    assert squeezed(oracle.text(both)) == squeezed(oracle.text(oracle.ids(whole) + ended))
                assert oracle.turns(both) == oracle.turns(oracle.ids(oracle.whole(bare(*prompt, side))) + ended)
            else:
                assert both == oracle.ids(whole) + ended
                assert outcome.prompt_ids == oracle.ids(asked) == tokeniser.prompt(prompt)
            assert ids[-1] == tokeniser.end_id == (made.eos_token_id if "im_end" not in grammar.end else 4)
            for message in (*prompt[:-1], prompt[-1], side):  # nothing is left out in silence
                for part in re.split("</?think>", message["content"]):
                    assert part.strip() in whole or (message["role"] == "assistant" and "think" in message["content"])


def check_drop(
    reason: str, tokeniser: Tokeniser, oracle: Oracle, prompt: list[Message], sides: tuple[Message, ...]
) -> None:
    """That a pair which is not used could not be."""
    grammar = oracle.grammar
    if reason == "template-refused":
        assert grammar.system == "refused" and prompt[0]["role"] == "system"
        return
    asked = oracle.asked(prompt).removesuffix(tokeniser.left_to_answer)
    wholes = [oracle.whole([*prompt, side]) for side in sides]
    if reason == "control-token":
        assert spells(*prompt, *sides)
    elif reason == "seam":
        ids = oracle.ids(asked)
        ends = [oracle.closed(side) for side in sides] if grammar.thoughts == "opened" else ["", ""]
        tried = [w if w.startswith(asked) else asked + end for w, end in zip(wholes, ends, strict=True)]
        assert spells(*prompt, *sides) or any(oracle.ids(whole)[: len(ids)] != ids for whole in tried)
    elif reason == "generation-prompt":
        assert any(not whole.startswith(asked) for whole in wholes) and grammar.thoughts != "opened"
    elif reason == "open-thoughts":
        assert grammar.thoughts == "opened" and any("</think>" not in side["content"] for side in sides)
    elif reason == "template-leaves-out":
        dropped = grammar.system == "dropped" and prompt[0]["role"] == "system"
        taken = grammar.thoughts in ("taken-out", "opened") and any(
            "</think>" in s["content"] for s in (*prompt, *sides)
        )
        assert dropped or taken
    elif reason == "equal-completions":
        assert oracle.ids(wholes[0]) == oracle.ids(wholes[1])
    elif reason == "empty-completion":
        silence = oracle.ids(oracle.whole([*prompt, said("")]))
        assert any(oracle.ids(whole) == silence for whole in wholes)
    else:
        raise AssertionError(reason)
