"""The Jinja sandbox that chat templates run in, with the names that they expect."""

from __future__ import annotations

import json
from datetime import datetime

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

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


def build_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that chat templates are written for.

    They expect whitespace control by blocks, `break` and `continue`, `{% generation %}`, a
    `tojson` that leaves markup and non-ASCII characters alone, `raise_exception` and
    `strftime_now`.
    """
    environment = ImmutableSandboxedEnvironment(
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

    tags = {"generation"}  # noqa: RUF012 (the base class declares it this way)

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
