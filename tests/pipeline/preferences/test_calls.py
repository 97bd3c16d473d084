"""Calls of tools, their results and the tools themselves: rendered as the template wants them, or counted out."""

import re
from typing import Any

from pipeline.preferences.messages import Message, said
from pipeline.preferences.normalise import Preference
from pipeline.preferences.tokenise import TokenisedPair
from tests.pipeline.preferences.talks import ASK, CALLS, CHATML, SYSTEM, TOOL, call, open_, reason, texts

# As Mistral's: ids of calls of nine letters and digits, or none of it is rendered.
NINE = CALLS.replace(
    "{% for c in m.tool_calls or [] %}",
    "{% if m.role == 'tool' and m.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}"
    "{% if m.tool_call_id %}[{{ m.tool_call_id }}]{% endif %}{% for c in m.tool_calls or [] %}"
    "{% if c.id is not defined or c.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}"
    "[{{ c.id }}]",
)
RESULT = {"role": "tool", "content": "rain"}


def test_calls_tools_and_results_are_rendered_and_their_loss_is_found() -> None:
    tokeniser = open_(CALLS)
    prompt, chosen = texts(tokeniser, [ASK], call("Oslo", "I look."), tools=(TOOL,))
    assert '"weather"' in prompt and "Of a town." in prompt
    assert chosen == ('I look.<tool_call>{"name": "weather", "arguments": {"town": "Oslo"}}</tool_call><|im_end|>')
    pair = tokeniser.pair(Preference((ASK,), call("Oslo"), call("Rome"), tools=(TOOL,)))
    assert isinstance(pair, TokenisedPair) and pair.chosen_ids != pair.rejected_ids
    history = [ASK, call("Oslo"), {"role": "tool", "content": "<think>rain</think>"}, ASK]
    assert "rain" in texts(tokeniser, history, "It rains.")[0]
    plain = open_(CHATML)
    assert reason(plain, [ASK], call("Oslo", "I look.")) == "template-leaves-out"
    assert reason(plain, history, "It rains.") == "template-leaves-out"
    about = [{"role": "user", "content": "How is the weather?"}]  # which has the tool's name in it
    assert reason(plain, about, "Fine.", tools=(TOOL,)) == "template-leaves-out"
    no_results = CALLS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    assert reason(open_(no_results), history, "It rains.") == "template-leaves-out"


def test_calls_that_end_otherwise_end_so() -> None:
    own = CALLS.replace("<|im_end|>\n{% endfor %}", "{{ '<s>' if m.tool_calls else '<|im_end|>' }}\n{% endfor %}")
    tokeniser = open_(own)
    assert texts(tokeniser, [ASK], call("Oslo", "I look."))[1].endswith("</tool_call><s>")
    assert texts(tokeniser, [ASK], "Blue.")[1] == "Blue.<|im_end|>" and tokeniser.end["text"] == "<|im_end|>"


def test_whether_tools_are_written_is_a_question_of_the_roles() -> None:
    only_alone = CALLS.replace("{% if tools %}", "{% if tools and messages[0].role != 'system' %}")
    rows = ([ASK], [SYSTEM, ASK])
    for order in ((0, 1), (1, 0)):
        tokeniser = open_(only_alone)
        found = {n: tokeniser.pair(Preference(tuple(rows[n]), said("a"), said("b"), tools=(TOOL,))) for n in order}
        assert isinstance(found[0], TokenisedPair) and getattr(found[1], "reason", None) == "template-leaves-out"


def test_arguments_of_calls_as_the_template_wants_them() -> None:
    joined = open_(CALLS.replace("{{ c.function | tojson }}", "{{ c.function.name + ' ' + c.function.arguments }}"))
    assert texts(joined, [ASK], call("Oslo"))[1] == '<tool_call>weather {"town": "Oslo"}</tool_call><|im_end|>'


def calling(arguments: dict[str, Any], **more: Any) -> Message:
    return said("") | {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}} | more]}


def test_arguments_that_are_left_out_are_found_whatever_their_type() -> None:
    own = "{{ c.function | tojson }}"
    names = open_(CALLS.replace(own, "{{ c.function.name }}"))
    no_values = open_(CALLS.replace(own, "{{ c.function.name }}{{ c.function.arguments | list }}"))
    cut = open_(CALLS.replace(own, "{{ (c.function | tojson)[:120] }}"))
    for arguments in ({"n": 5}, {"n": [2.5]}, {"n": {"m": "Oslo"}}):
        assert reason(names, [ASK], calling(arguments)) == "template-leaves-out"
        assert reason(no_values, [ASK], calling(arguments)) == "template-leaves-out"
        assert "f" in texts(cut, [ASK], calling(arguments))[1]
    assert reason(cut, [ASK], calling({"n": 9 * "the weather of Oslo"})) == "template-leaves-out"
    assert '{"n": 5, "yes": true, "say": "\\"a\\"\\n"}' in texts(
        open_(CALLS), [ASK], calling({"n": 5, "yes": True, "say": '"a"\n'})
    )[1].replace("<|im_end|>", "")


def test_of_tools_names_are_written_or_the_row_is_counted_out() -> None:
    properties = {"town": {"type": "string", "description": "Which one."}}
    described = {"type": "object", "properties": properties, "required": ["town"]}
    tool = {"type": "function", "function": {"name": "weather", "description": "Of a town.", "parameters": described}}
    about = [{"role": "user", "content": "What is the weather in this town?"}]
    whole = open_(CALLS)
    assert '"Which one."' in texts(whole, about, "Rain.", tools=(tool,))[0] and whole.remarks() == {}
    written = CALLS.replace("{{ tools | tojson }}", "{% for t in tools %}{{ WRITTEN }}{% endfor %}")
    only_names = open_(written.replace("WRITTEN", "t.function.name"))
    assert reason(only_names, about, "Rain.", tools=(tool,)) == "template-leaves-out"
    signature = open_(
        written.replace("WRITTEN", "t.function.name ~ '(' ~ t.function.parameters.properties | join ~ ')'")
    )
    assert "weather(town)" in texts(signature, about, "Rain.", tools=(tool,))[0]
    assert signature.remarks() == {"the chat template leaves out descriptions of tools": 2}


def test_ids_of_calls_become_what_the_template_takes() -> None:
    """Those of a call and of its result stay one, and do not depend on the rows before."""
    given: list[dict[str, Any]] = [{"id": "call_Xy-12"}, {"id": 7}, {}]
    for more in given:
        tokeniser = open_(NINE)
        answers = RESULT | ({"tool_call_id": more["id"]} if more else {})
        outcomes = [texts(tokeniser, [ASK, calling({"n": n}, **more), answers], "Rain.")[0] for n in (5, 5, 6)]
        ids = [re.findall(r"\[([A-Za-z0-9]{9})\]", prompt) for prompt in outcomes]
        assert all(len(each) == 2 and len(set(each)) == 1 for each in ids) and ids[0] == ids[1]
        assert (ids[1] == ids[2]) == bool(more)  # a call without an id gets that of its content
        assert list(tokeniser.remarks()) == [
            "the chat template wants other ids of calls, which get such of nine letters and digits"
        ]
    own = open_(NINE)
    kept = [ASK, calling({"n": 5}, id="abcDEF123"), RESULT | {"tool_call_id": "abcDEF123"}]
    assert texts(own, kept, "Rain.")[0].count("[abcDEF123]") == 2 and own.remarks() == {}


def test_several_calls_at_once_keep_apart() -> None:
    two = said("") | {"tool_calls": [*calling({"n": 1})["tool_calls"], *calling({"n": 1})["tool_calls"]]}
    prompt = texts(open_(NINE), [ASK, two, RESULT, RESULT], "Rain.")[0]
    first, second, *results = re.findall(r"\[([A-Za-z0-9]{9})\]", prompt)
    assert first != second and results == [first, second]


def test_a_call_whose_id_the_template_takes_as_it_is_stays() -> None:
    written = CALLS.replace("<tool_call>", "<tool_call>[{{ c.id }}]")
    assert "[call_Xy-12]" in texts(open_(written), [ASK], calling({"n": 5}, id="call_Xy-12"))[1]
    joined = NINE.replace("{{ c.function | tojson }}", "{{ c.function.name + c.function.arguments }}")
    assert '{"n": 5}' in texts(open_(joined), [ASK], calling({"n": 5}, id="call_Xy-12"))[1]  # and text besides
