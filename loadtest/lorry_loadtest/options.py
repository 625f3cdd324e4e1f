"""The options that say what is sent, shared by `lorry loadtest` and by locust's own command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from lorry_loadtest.adapter_mix import mix_of, parse_adapters
from lorry_loadtest.lengths import Lengths, parse_lengths
from lorry_loadtest.prompts import RandomWords
from lorry_loadtest.wire import Route


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """`adapters` None means: those that the server lists, each as often."""

    adapters: Mapping[str | None, float] | None = None
    base_share: float = 0.0
    prompts: RandomWords = field(default_factory=RandomWords)
    max_tokens: Lengths = field(default_factory=lambda: Lengths(16, 96))
    seed: int = 7
    route: Route = "completions"
    ignore_eos: bool = False
    api_key: str | None = field(default=None, repr=False)


def add_workload_options(parser: Any) -> None:
    """Adds them to an argparse parser, or to a group or parser of locust's.

    Values stay text: locust's web form hands them over as text too.
    """
    parser.add_argument(
        "--adapters",
        default="",
        metavar="NAMES",
        help="a,b,c or a=3,b=1 with weights; as a default those that the server lists",
    )
    parser.add_argument(
        "--base-share",
        type=float,
        default=0.0,
        metavar="X",
        help="share of requests, 0 to 1, that go to the base model (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt-words",
        default="64",
        metavar="N|LOW:HIGH",
        help="random words per prompt (default: %(default)s)",
    )
    parser.add_argument(
        "--max-tokens",
        default="16:96",
        metavar="N|LOW:HIGH",
        help="max_tokens of a request, evenly spread (default: %(default)s)",
    )
    parser.add_argument(
        "--ignore-eos",
        action="store_true",
        help="ask for max_tokens tokens whatever the model says",
    )
    parser.add_argument(
        "--route",
        choices=get_args(Route),
        default="completions",
        help="which OpenAI route to use (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=7, help="decides every request (default: %(default)s)"
    )


def workload_options(namespace: argparse.Namespace) -> WorkloadOptions:
    """Checks what `add_workload_options` parsed; ValueError names the wrong value."""
    adapters = parse_adapters(namespace.adapters) if namespace.adapters else None
    mix_of(adapters or {}, base_share=namespace.base_share)  # raises for weights and shares
    if namespace.route not in get_args(Route):
        raise ValueError(f"the route is {namespace.route!r}, not one of {get_args(Route)}")
    return WorkloadOptions(
        adapters=adapters,
        base_share=namespace.base_share,
        prompts=RandomWords(parse_lengths(namespace.prompt_words)),
        max_tokens=parse_lengths(namespace.max_tokens),
        seed=namespace.seed,
        route=cast(Route, namespace.route),  # checked above
        ignore_eos=namespace.ignore_eos,
        api_key=namespace.api_key or None,
    )
