"""The Jinja sandbox that chat templates run in, with the names that they expect."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import jinja2
import jinja2.exceptions
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RESULT_SIZE = 1 << 20

# What expressions in a template may raise when the messages are not what it expects.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with products and powers that cannot fill the memory.

    They are computed when the template runs, not when it is compiled.
    """

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if result_size(operator, left, right) > MAX_RESULT_SIZE:
            raise jinja2.exceptions.SecurityError(f"the result of {operator!r} would be too large")
        return super().call_binop(context, operator, left, right)


def result_size(operator: str, left: Any, right: Any) -> int:
    """Return about how many items or bits the result of a product or power of integers has."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        return bits * abs(right) if operator == "**" else bits + right.bit_length()
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, Sequence) and isinstance(times, int):
            return len(sequence) * max(times, 0)
    return 0  # fractions, or operands that have no such result


def build_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for.

    They expect whitespace control by blocks, `break` and `continue`, `{% generation %}`, a
    `tojson` that leaves markup and non-ASCII characters alone, `raise_exception` and
    `strftime_now`.
    """
    environment = TemplateEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


class TemplateRefusalError(jinja2.TemplateError):
    """The template called `raise_exception`; the message is the template's."""


class GenerationBlock(Extension):
    """`{% generation %}` marks an assistant's words for training; here it is its contents."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it this way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message: str) -> None:
    raise TemplateRefusalError(message)


def strftime_now(format: str) -> str:
    return datetime.now().strftime(format)
