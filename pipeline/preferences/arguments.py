"""What can be said of a chat template by reading it: whether it parses, and which arguments it takes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes

from pipeline.errors import UserError

# What apply_chat_template takes beside a template's own arguments.
_RESERVED = {"conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt", "tokenize"}
_RESERVED |= {"continue_final_message", "padding", "truncation", "max_length", "return_tensors", "return_dict"}
_RESERVED |= {"return_assistant_tokens_mask", "tokenizer_kwargs", "strftime_now"}


def require_arguments(source: str, arguments: Mapping[str, Any], whose: str) -> None:
    """Raise UserError for a source that does not parse, and for an argument that it does not read.

    `whose` names the template.
    """
    # An extension of transformers' own; in its place as many lines.
    bare = re.sub(r"{%-?\s*(end)?generation\s*-?%}", lambda tag: "\n" * tag[0].count("\n"), source)
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(bare)
    except TemplateSyntaxError as error:
        problem = f"{whose} does not parse: line {error.lineno}: {error.message}"
        raise UserError(problem, "mend it, or give model.chat_template another Jinja file") from None
    read = meta.find_undeclared_variables(tree) & set(_read(tree, set()))
    takes = sorted(name for name in read - _RESERVED if name != "raise_exception" and not name.endswith("_token"))
    for name in arguments:
        if name not in takes:
            problem = f"model.template_arguments.{name}: {whose} ignores it"
            raise UserError(problem, f"leave it out; it takes: {', '.join(takes) or 'none'}")


def _read(node: nodes.Node, known: set[str]) -> Iterator[str]:
    """Names that a template reads where they are not surely set; `known` are those that are, and grow on the way.

    jinja2 itself takes a name for one from outside as soon as a branch sets it, also where every branch does.
    """
    if isinstance(node, nodes.Name):
        if node.ctx != "load":
            known.add(node.name)
        elif node.name not in known:
            yield node.name
    elif isinstance(node, nodes.Assign):
        yield from _read(node.node, known)
        yield from _read(node.target, known)
    elif isinstance(node, nodes.AssignBlock):
        yield from _all(node.body, set(known))
        yield from _read(node.target, known)
    elif isinstance(node, nodes.If):
        branches = [(each.test, each.body) for each in (node, *node.elif_)]
        ends = []
        for test, body in branches:
            yield from _read(test, known)
            yield from _all(body, end := set(known))
            ends.append(end)
        yield from _all(node.else_, end := set(known))
        known |= set.intersection(*ends, end)
    elif isinstance(node, nodes.For):
        yield from _read(node.iter, known)
        yield from _all([node.target, *([node.test] if node.test else []), *node.body], set(known))
        yield from _all(node.else_, set(known))
    elif isinstance(node, nodes.Macro | nodes.CallBlock | nodes.FilterBlock | nodes.With | nodes.Scope):
        values = node.values if isinstance(node, nodes.With) else []  # which stand behind their names
        yield from _all([*values, *node.iter_child_nodes(exclude=("values",))], set(known))
        if isinstance(node, nodes.Macro):
            known.add(node.name)
    else:
        yield from _all(list(node.iter_child_nodes()), known)


def _all(children: Sequence[nodes.Node], known: set[str]) -> Iterator[str]:
    for each in children:
        yield from _read(each, known)
