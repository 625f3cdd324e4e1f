"""The options that say what is sent, shared by `lorry loadtest` and by locust's own command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_args

from lorry_loadtest.adapter_mix import mix_of, parse_adapters, parse_mix
from lorry_loadtest.arrivals import Arrivals, TraceArrivals, parse_arrival
from lorry_loadtest.lengths import Lengths, parse_lengths
from lorry_loadtest.prompts import RandomWords
from lorry_loadtest.routes import Route

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """What was given; None and the empty text leave a user class's own settings as they are."""

    adapters: Mapping[str | None, float] | None = None
    adapter_mix: str = ""
    base_share: float | None = None
    prompts: RandomWords | None = None
    max_tokens: Lengths | None = None
    seed: int | None = None
    route: Route | None = None
    arrival: str | Arrivals | TraceArrivals = ""
    canary_share: float | None = None
    patience_s: float | None = None
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
        "--adapter-mix",
        default="",
        metavar="MIX",
        help="uniform, zipf:S, zipf:S:rotate:30s, noisy:NAME:FACTOR or cold:SHARE:NUM_WARM",
    )
    parser.add_argument(
        "--base-share",
        default="",
        metavar="X",
        help="share of requests, 0 to 1, that go to the base model (default: 0)",
    )
    parser.add_argument(
        "--arrival",
        default="",
        metavar="ARRIVAL",
        help="open loop: constant:RATE, poisson:RATE, gamma:RATE:cv=CV or trace:FILE[:SCALE]; a RATE "
        "per second is 6, 2x30s,4x30s or 1..10x60s (default: a closed loop of users)",
    )
    parser.add_argument(
        "--prompt-words",
        default="",
        metavar="LENGTH",
        help="random words per prompt: 64, 16:96, normal:MEAN:SD:LOW:HIGH or "
        "lognormal:MEAN:SIGMA:LOW:HIGH (default: 64)",
    )
    parser.add_argument(
        "--max-tokens",
        default="",
        metavar="LENGTH",
        help="max_tokens of a request, written like --prompt-words (default: 16:96)",
    )
    parser.add_argument(
        "--ignore-eos",
        action="store_true",
        help="ask for max_tokens tokens whatever the model says",
    )
    parser.add_argument(
        "--route",
        choices=["", *get_args(Route)],
        default="",
        help="which streaming route to use (default: completions)",
    )
    parser.add_argument(
        "--canaries",
        default="",
        metavar="X",
        help="share of requests, such as 0.02, whose answers are known from the idle server and "
        "compared (default: 0)",
    )
    parser.add_argument(
        "--patience",
        default="",
        metavar="S",
        help="mean seconds after which users leave (default: they wait)",
    )
    parser.add_argument("--seed", default="", help="decides every request (default: 7)")


def workload_options(namespace: argparse.Namespace) -> WorkloadOptions:
    """Checks what `add_workload_options` parsed; ValueError names the wrong value."""
    adapters = parse_adapters(namespace.adapters) if namespace.adapters else None
    base_share = _read(namespace.base_share, "--base-share", float, "a number")
    mix_of(adapters or {}, base_share=base_share or 0.0)  # raises for weights and shares
    if namespace.adapter_mix and adapters:
        if set(adapters.values()) != {1.0}:
            raise ValueError(
                f"--adapter-mix {namespace.adapter_mix} says the weights: leave them out of --adapters"
            )
        parse_mix(namespace.adapter_mix, [name for name in adapters if name])
    if namespace.route and namespace.route not in get_args(Route):
        raise ValueError(f"the route is {namespace.route!r}, not one of {get_args(Route)}")
    if namespace.arrival:
        _check_arrival(namespace.arrival)
        if namespace.arrival.startswith("trace:"):
            for option, value in _LENGTHS.items():
                if getattr(namespace, value):
                    raise ValueError(f"a trace has lengths of its own: leave out {option}")
    canary_share = _read(namespace.canaries, "--canaries", float, "a number")
    if canary_share is not None and not 0 <= canary_share < 1:
        raise ValueError(f"--canaries {canary_share:g} is not from 0 to less than 1")
    patience_s = _read(namespace.patience, "--patience", float, "a number")
    if patience_s is not None and not patience_s > 0:
        raise ValueError(f"--patience {patience_s:g} is not > 0")
    return WorkloadOptions(
        adapters=adapters,
        adapter_mix=namespace.adapter_mix,
        base_share=base_share,
        prompts=RandomWords(parse_lengths(namespace.prompt_words))
        if namespace.prompt_words
        else None,
        max_tokens=parse_lengths(namespace.max_tokens) if namespace.max_tokens else None,
        seed=_read(namespace.seed, "--seed", int, "a whole number"),
        route=cast(Route, namespace.route) if namespace.route else None,  # checked above
        arrival=namespace.arrival,
        canary_share=canary_share,
        patience_s=patience_s,
        ignore_eos=namespace.ignore_eos,
        api_key=namespace.api_key or None,
    )


_LENGTHS = {"--prompt-words": "prompt_words", "--max-tokens": "max_tokens"}


def _check_arrival(text: str) -> None:
    try:
        parse_arrival(text)
    except OSError as exc:
        raise ValueError(f"--arrival {text}: {exc.strerror}") from exc


def _read(text: str, option: str, kind: Callable[[str], Number], what: str) -> Number | None:
    """None where nothing was given."""
    if text == "":
        return None
    try:
        return kind(text)
    except ValueError as exc:
        raise ValueError(f"{option} {text!r} is not {what}") from exc
