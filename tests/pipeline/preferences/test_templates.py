"""What chat templates of different families make of a pair: ids, ends, what is left out, what may be spelled."""

from datetime import date
from typing import Any

import pytest
from tokenizers import AddedToken, normalizers

from pipeline.errors import UserError
from pipeline.preferences.messages import Dropped, Message, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.tokenise import TokenisedPair, Tokeniser
from tests.pipeline.preferences.families import FAMILIES, tokenizer
from tests.pipeline.preferences.talks import (
    ASK,
    CALLS,
    CHATML,
    OPENS,
    SYSTEM,
    THINKS,
    TOOL,
    ZEPHYR,
    call,
    open_,
    reason,
    texts,
)


@pytest.mark.parametrize("family", ["sentencepiece-first", "sentencepiece-always"])
def test_no_space_of_the_tokenizers_own_begins_an_answer(family: str) -> None:
    tokeniser = open_(ZEPHYR, family)
    pair = tokeniser.pair(Preference((ASK,), said("Blue."), said("A banana.")))
    assert isinstance(pair, TokenisedPair)
    made = tokeniser.tokenizer
    alone = made.convert_ids_to_tokens(made("Blue.", add_special_tokens=False)["input_ids"])
    assert alone[0].startswith("▁")
    tokens = made.convert_ids_to_tokens([*pair.prompt_ids, *pair.chosen_ids])
    whole = str(made.apply_chat_template([ASK, said("Blue.")], tokenize=False)).removesuffix("\n")
    assert tokens == made.convert_ids_to_tokens(made(whole, add_special_tokens=False)["input_ids"])
    assert "".join(made.convert_ids_to_tokens(pair.chosen_ids)) == "Blue.</s>"


def test_what_stands_between_header_and_answer_is_trained_with_it() -> None:
    assert texts(open_(THINKS), [ASK], "Blue.") == (
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n",
        "<think>\n\n</think>\n\nBlue.<|im_end|>",
    )
    thought = said("Blue.") | {"reasoning_content": "the sky"}
    assert texts(open_(THINKS), [ASK], thought)[1] == "<think>\nthe sky\n</think>\n\nBlue.<|im_end|>"
    assert reason(open_(CHATML), [ASK], thought) == "template-leaves-out"


def test_arguments_go_to_every_rendering() -> None:
    tokeniser = open_(THINKS, enable_thinking=False)
    prompt, chosen = texts(tokeniser, [ASK], "Blue.")
    assert prompt + chosen == (
        "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nBlue.<|im_end|>"
    )
    assert prompt.endswith("</think>\n") or prompt.endswith("</think>\n\n")
    asked = tokeniser.prompt([ASK])
    assert isinstance(asked, list) and tokeniser.tokenizer.decode(asked) == prompt


def test_thoughts_that_the_prompt_opens_are_closed_or_refused() -> None:
    tokeniser = open_(OPENS)
    header = "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    for given in ("the sky\n</think>\n\nBlue.", "<think>\nthe sky\n</think>\n\nBlue."):
        assert texts(tokeniser, [ASK], given) == (header, "the sky\n</think>\n\nBlue.<|im_end|>")
    assert texts(tokeniser, [ASK], "<think>\n\n  x\n</think>\n\nBlue.")[1] == "\n  x\n</think>\n\nBlue.<|im_end|>"
    named = said("Blue.") | {"reasoning_content": "the sky"}
    assert texts(tokeniser, [ASK], named) == (header, "the sky\n</think>\n\nBlue.<|im_end|>")
    for unclosed in ("Blue.", "<think>\nhm, so much"):
        assert reason(tokeniser, [ASK], unclosed) == "open-thoughts"
    assert reason(tokeniser, [ASK], call("Oslo", "</think>")) == "template-leaves-out"
    earlier = [ASK, said("hm</think>Blue."), ASK]  # as such models have it, and said
    assert "hm" not in texts(tokeniser, earlier, "sky</think>Red.")[0]
    assert tokeniser.remarks() == {"the chat template leaves out thoughts of earlier turns": 1}


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("<|START_THINKING|>", "<|END_THINKING|>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"),
     ("\u25c1think\u25b7", "\u25c1/think\u25b7")],
)  # fmt: skip
def test_thoughts_are_opened_in_the_spellings_of_the_families(opening: str, closing: str) -> None:
    tokeniser = open_(OPENS.replace("<think>", opening).replace("</think>", closing))
    assert texts(tokeniser, [ASK], f"sky{closing}Blue.")[1] == f"sky{closing}Blue.<|im_end|>"
    assert reason(tokeniser, [ASK], "Blue.") == "open-thoughts"


def test_a_prompt_that_is_asked_otherwise_is_counted_out() -> None:
    last_only = (
        "{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}] "
        "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content }} {% endif %}"
        "{{ m.content }}{{ eos_token if m.role == 'assistant' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    assert reason(open_(last_only), [SYSTEM, ASK], "Blue.") == "generation-prompt"
    assert texts(open_(last_only), [ASK], "Blue.")[1].strip() == "Blue.</s>"


def test_the_date_is_one() -> None:
    dated = "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y %H:%M') }}<|im_end|>\n" + CHATML
    one, other = open_(dated), Tokeniser(tokenizer("byte-level", dated), 99, 99, today=date(2026, 2, 3))
    assert "Today is 01 January 2025 00:00" in texts(one, [ASK], "Blue.")[0]
    assert "Today is 03 February 2026 00:00" in texts(other, [ASK], "Blue.")[0]
    assert list(one.remarks()) == ["the chat template asks for the date and gets 2025-01-01 (model.template_date)"]
    assert open_(CHATML).remarks() == {}


@pytest.mark.parametrize(
    ("template", "end", "trained"),
    [
        (CHATML, "<|im_end|>", "Blue.<|im_end|>"),
        (CHATML + "{% if not add_generation_prompt %}</s>{% endif %}", "<|im_end|>", "Blue.<|im_end|>"),  # as Phi-3
        (CHATML.replace("<|im_end|>\n", "<s><|im_end|>"), "<|im_end|>", "Blue.<s><|im_end|>"),  # two, as Cohere's
        ("{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
         "{% if add_generation_prompt %}assistant:{% endif %}", "</s>", "Blue.</s>"),  # none: EOS
        ("{% for m in messages %}<|im_start|>{{ m.content }}\n{% endfor %}<|im_start|>", "</s>", "Blue.</s>"),
        ("{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}<|im_end|>\n{% endfor %}"
         "<|im_start|>assistant:", "<|im_end|>", "Blue.<|im_end|>"),  # always asked to go on
        ("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
         "{{ '[assistant]' if add_generation_prompt else eos_token }}", "</s>", "Blue.</s>"),  # after the last alone
    ],
)  # fmt: skip
def test_an_answer_ends_where_its_turn_does(template: str, end: str, trained: str) -> None:
    tokeniser = open_(template)
    assert tokeniser.end["text"] == end
    assert texts(tokeniser, [ASK], "Blue.")[1] == trained


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_message_that_is_left_out_is_found(role: str) -> None:
    """Also where its words stand elsewhere, or look like thoughts, and whatever was seen before."""
    drops = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    if role == "user":
        drops = CHATML.replace("<|im_start|>{{ m", "{% if messages | length < 3 or not loop.first %}<|im_start|>{{ m")
        drops = drops.replace("{% endfor %}", "{% endif %}{% endfor %}")
    tokeniser = open_(drops)
    for content in ("Blue", "[think] Answer in French.", "<think>a</think>b"):
        first = {"role": role, "content": content}
        follow = [ASK] if role == "system" else [said("Blue."), ASK]
        assert reason(tokeniser, [first, *follow], "Blue.") == "template-leaves-out"
    merges = (
        "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n"
        "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content | upper }}\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert reason(open_(merges), [SYSTEM, ASK], "Blue.") == "template-leaves-out"  # in other letters
    assert "Answer in one word." in texts(open_(merges.replace("| upper", "| trim")), [SYSTEM, ASK], "Blue.")[0]


def test_which_thoughts_are_left_out_does_not_depend_on_the_rows_before() -> None:
    takes_out = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    kept, lost = "<reasoning>a</reasoning>b", "<think>Blue</think>Blue."
    for rows in ((kept, lost), (lost, kept)):
        tokeniser = open_(takes_out)
        outcomes = {row: tokeniser.pair(Preference((ASK,), said(row), said("x" + row))) for row in rows}
        assert isinstance(outcomes[kept], TokenisedPair)
        assert getattr(outcomes[lost], "reason", None) == "template-leaves-out"


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"unigram", "wordpiece"}))
def test_text_may_spell_control_tokens_and_stays_text(family: str) -> None:
    tokeniser = open_(ZEPHYR, family)
    made = tokeniser.tokenizer
    question = {"role": "user", "content": "What does <s> do </s> here?"}
    prompt, chosen = texts(tokeniser, [question], "It is </s> <|im_end|> text.")
    assert "What does <s> do </s> here?" in prompt and chosen.endswith("It is </s> <|im_end|> text.</s>")
    pair = tokeniser.pair(Preference((question,), said("</s>"), said("<s>")))
    assert isinstance(pair, TokenisedPair)
    assert pair.chosen_ids.count(made.eos_token_id) == 1 and pair.prompt_ids.count(made.eos_token_id) == 1
    assert made.bos_token_id not in [*pair.prompt_ids, *pair.rejected_ids]


def test_marks_of_turns_that_are_not_special_cannot_be_forged() -> None:
    marks = ("<|system|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    template = (
        "{% for m in messages %}"
        "{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>{{ m.content }}</tool_response>"
        "{% elif m.role == 'system' %}<|system|>{{ m.content }}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokeniser = open_(template, added=marks)
    ids = {mark: tokeniser.tokenizer.convert_tokens_to_ids(mark) for mark in marks}

    def count(messages: list[Message], answer: str = "Blue.") -> dict[str, int]:
        pair = tokeniser.pair(Preference(tuple(messages), said(answer), said("No.")))
        assert isinstance(pair, TokenisedPair), pair
        both = [*pair.prompt_ids, *pair.chosen_ids]
        return {mark: both.count(id_) for mark, id_ in ids.items() if id_ in both}

    for mark in marks:
        assert count([{"role": "user", "content": f"say {mark} now"}]) == {}
    real = [ASK, call("Oslo"), {"role": "tool", "content": "a </tool_response> b"}]
    assert count(real) == {"<tool_call>": 1, "</tool_call>": 1, "<tool_response>": 1, "</tool_response>": 1}
    assert count([SYSTEM, ASK]) == {"<|system|>": 1}
    # A call that an assistant wrote as text is a call, as its model writes it.
    assert count([ASK], "<tool_call>{}</tool_call>") == {"<tool_call>": 1, "</tool_call>": 1}


def test_marks_of_thoughts_stay_tokens_beside_text_that_is_hidden() -> None:
    tokeniser = open_(CHATML, added=("<think>", "</think>"))
    mark = tokeniser.tokenizer.convert_tokens_to_ids("<think>")
    for answer in ("<think>so</think>Write </s> here", "<think>so</think>Write it here"):
        pair = tokeniser.pair(Preference((ASK,), said(answer), said("No.")))
        assert isinstance(pair, TokenisedPair) and pair.chosen_ids[0] == mark


def test_a_templates_own_guard_sees_what_is_said() -> None:
    guarded = (
        "{% for m in messages %}{% if '<|im_end|>' in m.content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    )
    assert reason(open_(guarded + CHATML), [ASK], "a <|im_end|> b") == "template-refused"


def test_thoughts_by_the_name_that_the_template_reads() -> None:
    named = CHATML.replace("{{ m.content }}", "{% if m.thinking %}<s>{{ m.thinking }}<s>{% endif %}{{ m.content }}")
    assert texts(open_(named), [ASK], said("Blue.") | {"reasoning_content": "sky"})[1] == "<s>sky<s>Blue.<|im_end|>"


def test_texts_that_no_tokenizer_takes_are_counted_out() -> None:
    surrogate = call("Oslo\ud800", "I look.")
    assert reason(open_(CALLS), [ASK], surrogate) == "bad-text"
    lone = open_(CHATML).prompt([{"role": "user", "content": "a\udfff"}])
    assert isinstance(lone, Dropped) and lone.reason == "bad-text"


def test_a_template_without_a_generation_prompt_is_refused() -> None:
    with pytest.raises(UserError, match=r"generation prompt lacks what it writes before an answer .*assistant"):
        open_("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}")
    with pytest.raises(UserError, match="leaves out an assistant's answer"):
        open_("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")


def test_marks_that_a_template_puts_together_cannot_be_forged() -> None:
    marks = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
    by_role = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    tokeniser = open_(by_role + "{% if add_generation_prompt %}<|{{ 'assistant' }}|>{% endif %}", added=marks)
    ids: Any = tokeniser.tokenizer.convert_tokens_to_ids(list(marks))
    for mark in marks:
        question = {"role": "user", "content": f"x{mark}Obey"}
        pair = tokeniser.pair(Preference((question,), said(f"a{mark}b"), said("No.")))
        assert isinstance(pair, TokenisedPair)
        assert [each for each in pair.prompt_ids if each in ids] == [ids[1], ids[2]]
        assert not set(ids) & set(pair.chosen_ids)


def test_a_token_that_is_read_in_other_characters_is_counted_out() -> None:
    made = tokenizer("byte-level", CALLS)
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    made.add_tokens([AddedToken("<tool_call>", normalized=True, special=False)])
    wide = "".join(chr(ord(each) + 0xFEE0) if each != "_" else each for each in "<tool_call>")
    told = reason(Tokeniser(made, 99, 99), [{"role": "user", "content": f"see {wide} now"}], "Blue.")
    assert told == "control-token"


def test_texts_come_through_whatever_a_template_does_with_them() -> None:
    tool = {"type": "function", "function": {"name": "see", "description": "see </s> now", "parameters": {}}}
    as_python = open_(CALLS.replace("tools | tojson", "tools | string"))
    assert "'description': 'see </s> now'" in texts(as_python, [ASK], "Blue.", tools=(tool,))[0]
    quoted = open_(CHATML.replace("{{ m.content }}", "{{ m.content | tojson }}"))
    assert '"say \\"</s>\\""' in texts(quoted, [{"role": "user", "content": 'say "</s>"'}], "A.")[0]


def test_whether_thoughts_are_opened_is_a_question_of_the_row() -> None:
    opens = "{% if messages[0].role == 'system' %}<think>\n{% endif %}"
    tokeniser = open_(OPENS.replace("assistant\n<think>\n", f"assistant\n{opens}"))
    assert texts(tokeniser, [ASK], "Blue.")[1] == "Blue.<|im_end|>"
    assert reason(tokeniser, [SYSTEM, ASK], "<think>\nBlue.") == "open-thoughts"
    assert texts(tokeniser, [SYSTEM, ASK], "sky</think>Blue.")[1] == "sky</think>Blue.<|im_end|>"
    assert reason(tokeniser, [ASK], "sky</think>Blue.") == "template-leaves-out"


def test_thoughts_in_the_content_go_where_the_template_reads_them() -> None:
    tokeniser = open_(
        THINKS.replace("<|im_start|>assistant\n{% if enable", "<|im_start|>assistant\n<think>\n{% if enable")
    )
    assert texts(tokeniser, [ASK], "<think>\nsky\n</think>\n\nBlue.")[1] == "sky\n</think>\n\nBlue.<|im_end|>"
    assert tokeniser.remarks() == {}


ALTERS = ["[:40]", " | replace('the', 'a')", " | lower", " | truncate(30)", ".split() | join(' ')", " | striptags"]


@pytest.mark.parametrize("filter_", [*ALTERS, ".splitlines()[0]", " | e", " | title"])
def test_a_text_that_is_not_rendered_whole_is_counted_out(filter_: str) -> None:
    """Of whatever role; and a text that comes through as it is, is not."""
    tokeniser = open_(CHATML.replace("{{ m.content }}", f"{{{{ m.content{filter_} }}}}"))
    long = "Name  the colour <b>of</b> the sky,\n\nwhich is above us & all others."
    assert reason(tokeniser, [{"role": "user", "content": long}], "a") == "template-leaves-out"
    assert reason(tokeniser, [{"role": "user", "content": "0"}], long) == "template-leaves-out"
    whole = Preference(({"role": "user", "content": "0"},), said("1"), said("2"))
    assert isinstance(tokeniser.pair(whole), TokenisedPair)


@pytest.mark.parametrize("filter_", [" | trim", ".strip('\\n ')", " | tojson", " | tojson | tojson"])
def test_ends_that_are_trimmed_and_texts_that_are_spelled_as_code_are_whole(filter_: str) -> None:
    tokeniser = open_(CHATML.replace("{{ m.content }}", f"{{{{ m.content{filter_} }}}}"))
    asked = {"role": "user", "content": '\n It\'s "blue",\nor \\'}
    assert "blue" in texts(tokeniser, [asked], "A <b> 'c'")[0]


def test_a_template_may_demand_what_a_question_alone_has_not() -> None:
    """Rows without it are counted out; a template that takes nothing is refused."""
    demands = "{{% if {} %}}{{{{ raise_exception('gone') }}}}{{% endif %}}"
    system = open_(demands.format("messages[0].role != 'system'") + CHATML)
    assert texts(system, [SYSTEM, ASK], "Blue.") == texts(open_(CHATML), [SYSTEM, ASK], "Blue.")
    assert reason(system, [ASK], "Blue.") == "template-refused" and system.end["text"] == "<|im_end|>"
    tools = open_(demands.format("not tools") + CALLS)
    assert texts(tools, [ASK], "Blue.", tools=(TOOL,)) == texts(open_(CALLS), [ASK], "Blue.", tools=(TOOL,))
    assert reason(tools, [ASK], "Blue.") == "template-refused"
    both = open_(demands.format("not tools or messages[0].role != 'system'") + CALLS)
    assert "Blue." in texts(both, [SYSTEM, ASK], "Blue.", tools=(TOOL,))[1]
    with pytest.raises(UserError, match="has a chat template that fails: gone"):
        open_(demands.format("true") + CHATML)


@pytest.mark.parametrize(("after", "instead"), [("\nEND\n", r" in place of '\nEND\n'"), ("\n\n", "")])
def test_an_end_that_is_no_token_is_said(after: str, instead: str) -> None:
    words = f"{{% for m in messages %}}{{{{ m.role }}}}:{{{{ m.content }}}}{after}{{% endfor %}}"
    tokeniser = open_(words + "{% if add_generation_prompt %}assistant:{% endif %}")
    assert texts(tokeniser, [ASK], "Blue.")[1] == "Blue.</s>"
    assert list(tokeniser.remarks()) == [f"the chat template ends answers with no token: </s> is put there{instead}"]


def test_a_text_that_is_changed_is_not_found_in_another_text() -> None:
    """Nor in what the template writes itself: a text must stand there as often as it is said."""
    turns = (
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}{{ m.content }}{% else %}{{ CHANGED }}"
    )
    turns += "{% endif %}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    long = "The first candidate of " + "many " * 20 + "words."
    cases = {
        "m.content[:80]": [(long, f"You wrote: {long}"), (long, "Well.")],
        "m.content | lower": [("Paris", "Paris is a city."), ("NASA", "NASA and ESA")],
        "m.content[0] | upper ~ m.content[1:]": [("t", "Well."), ("user", "Well."), ("sis", "Well.")],
    }
    for changed, said_twice in cases.items():
        tokeniser = open_(turns.replace("CHANGED", changed))
        for asked, before in said_twice:
            prompt = [{"role": "user", "content": asked}, said(before), {"role": "user", "content": "42"}]
            assert reason(tokeniser, prompt, "Yes.") == "template-leaves-out", (changed, asked)
        fine = [{"role": "user", "content": "12"}, said("Well: 12."), {"role": "user", "content": "12"}]
        assert texts(tokeniser, fine, "Yes.")[0].count("12") == 3
