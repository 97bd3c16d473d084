"""Arguments of a chat template: those that change nothing are refused."""

import pytest

from pipeline.errors import UserError
from pipeline.preferences.arguments import require_arguments

TAKES = [
    "{% if x is not defined %}{% set x = 1 %}{% endif %}{{ x }}",
    "{% set x = x or 1 %}{{ x }}",
    "{% set x = x | default(1) %}{{ x }}",
    "{% if tools %}{% set x = 1 %}{% endif %}{{ x }}",  # where there are no tools
    "{% for m in messages %}{% set x = m %}{% endfor %}{{ x }}",  # a loop's own is gone after it
    "{% for m in messages %}{{ m }}{% else %}{{ x }}{% endfor %}",
    "{% macro write(m) %}{{ m }}{{ x }}{% endmacro %}{{ write(messages[0]) }}",
    "{% with x = x %}{{ x }}{% endwith %}",
    "{% generation %}{{ x }}{% endgeneration %}",
    "{% for m in messages if m.role != x %}{{ m }}{% endfor %}",
]
IGNORES = [
    "{% set x = 1 %}{{ x }}",
    "{% set x %}one{% endset %}{% if x is defined %}{{ x }}{% endif %}",
    "{% if tools %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% if tools %}{% set x = 1 %}{% elif messages %}{% set x = 3 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for m in messages %}{% if m.a %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in messages %}{{ x }}{% endfor %}",
    "{% macro write(x) %}{{ x }}{% endmacro %}{{ write(messages[0]) }}",
    "{% set x, y = 1, 2 %}{{ x }}{{ y }}",
    "{% set ns = namespace(x=1) %}{% set ns.x = 2 %}{{ ns.x }}",
    "{% with x = 1 %}{{ x }}{% endwith %}",
    "{{ messages[0].x }}",
    "",
]


@pytest.mark.parametrize("source", TAKES)
def test_an_argument_that_is_read_is_taken(source: str) -> None:
    require_arguments(source, {"x": True}, "it")


@pytest.mark.parametrize("source", IGNORES)
def test_an_argument_that_the_template_sets_itself_is_refused(source: str) -> None:
    with pytest.raises(UserError, match=r"model.template_arguments.x: it ignores it\n.*it takes: shown$"):
        require_arguments(source + "{{ shown }}", {"shown": 1, "x": True}, "it")


@pytest.mark.parametrize("name", ["messages", "tokenize", "loop", "m", "raise_exception", "eos_token"])
def test_what_every_rendering_has_is_no_argument(name: str) -> None:
    source = "{% for m in messages %}{{ m, loop, tokenize, eos_token, raise_exception }}{% endfor %}"
    with pytest.raises(UserError, match=rf"model.template_arguments.{name}: it ignores it\n.*it takes: none"):
        require_arguments(source, {name: True}, "it")
