"""Wrong arguments of constructors: one rule for all of the package, and what it is wrong about.

ConfigError is for what may come from a client's surroundings (addresses, keys, headers, limits of
time, files); anything else is a TypeError or a ValueError, as in Python.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lorry


class Wrong(NamedTuple):
    """A call that is to be refused; `named` is in the message."""

    make: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    error: type[Exception]
    named: str


def wrong(make: str, *arguments: Any, error: type[Exception], named: str, **options: Any) -> Wrong:
    return Wrong(make, arguments, options, error, named)


# what both clients take
CLIENTS = [
    case
    for make in ("AsyncClient", "Client")
    for case in (
        wrong(make, "h:1", error=lorry.ConfigError, named="'h:1'"),
        wrong(make, 7, error=lorry.ConfigError, named="base_url"),
        wrong(make, api_key="a\nb", error=lorry.ConfigError, named="api_key"),
        wrong(make, api_key=7, error=lorry.ConfigError, named="api_key is a int"),
        wrong(make, timeout=[], error=lorry.ConfigError, named="timeout"),
        wrong(make, timeout=-1, error=lorry.ConfigError, named="-1"),
        wrong(make, timeout="soon", error=lorry.ConfigError, named="'soon'"),
        wrong(make, headers={"x y": "v"}, error=lorry.ConfigError, named="'x y'"),
        wrong(make, headers=["x"], error=lorry.ConfigError, named="headers is a list"),
        wrong(make, retry=0, error=ValueError, named="retry is 0"),
        wrong(make, retry="twice", error=TypeError, named="'twice'"),
        wrong(make, limits=3, error=TypeError, named="'limits'"),
    )
]
CASES = [
    *CLIENTS,
    wrong("AsyncClient", limit=0, error=ValueError, named="0"),
    wrong("AsyncClient", limit="many", error=TypeError, named="str"),
    wrong("AsyncClient", transport=7, error=TypeError, named="int"),
    wrong("AsyncClient", middleware=["log"], error=TypeError, named="str"),
    wrong("AsyncClient", defaults={"adaptr": "a"}, error=TypeError, named="'adapter'"),
    wrong("AdaptiveLimit", min=0, error=ValueError, named="min is 0"),
    wrong("AdaptiveLimit", min=9, max=8, error=ValueError, named="in order"),
    wrong("AdaptiveLimit", target_ttft=0, error=ValueError, named="target_ttft is 0"),
    wrong("Constant", 0, error=ValueError, named="requests_per_s is 0"),
    wrong("Poisson", -1, error=ValueError, named="requests_per_s is -1"),
    wrong("Gamma", 1, 0, error=ValueError, named="variation is 0"),
    wrong("Trace", [2, 1], error=ValueError, named="descend"),
    wrong("Endpoint", "ftp://h", error=lorry.ConfigError, named="'ftp://h'"),
    wrong("Endpoint", "http://h", weight=0, error=ValueError, named="weight"),
    wrong("FaultTransport", seed=1, refuse=2, error=ValueError, named="refuse is 2"),
    wrong("FaultTransport", 7, seed=1, error=TypeError, named="int"),
    wrong("Limit", 0, error=ValueError, named="max_in_flight is 0"),
    wrong("Limit", 4, per_adapter=0, error=ValueError, named="per_adapter is 0"),
    wrong("RateLimit", error=ValueError, named="requests_per_s or tokens_per_s"),
    wrong("RateLimit", requests_per_s=0, error=ValueError, named="requests_per_s is 0"),
    wrong("RecordingTransport", None, Path(__file__), error=lorry.ConfigError, named="exists"),
    wrong("ReplayTransport", "nowhere", error=lorry.ConfigError, named="nowhere"),
    wrong("ReplayTransport", __file__, speed=0, error=ValueError, named="speed is 0"),
    wrong("Request", error=TypeError, named="prompt or of messages"),
    wrong("Request", "Hi", adaptr="a", error=TypeError, named="'adapter'"),
    wrong("RetryBudget", ratio=-1, error=ValueError, named="ratio is -1"),
    wrong("RetryBudget", min_per_s=float("nan"), error=ValueError, named="min_per_s is nan"),
    wrong("RetryPolicy", 0, error=ValueError, named="max_attempts is 0"),
    wrong("RetryPolicy", base_s=-1, error=ValueError, named="base_s is -1"),
    wrong("Timeout", 0, error=ValueError, named="total is 0"),
    wrong("Timeout", idle=float("inf"), error=ValueError, named="idle is inf"),
]

# what the SDK makes and a caller reads, and what says how something of the caller's has to look
MADE_BY_THE_SDK = {
    *("AdapterCards", "AttemptTiming", "BatchRun", "BatchStats", "Classification", "ClientStats"),
    *("Comparison", "Embeddings", "EndpointStats", "Entity", "EventStream", "Finished"),
    *("Generation", "Health", "KeepAlive", "LimitChange", "Progress", "RawResponse", "RawStream"),
    *("ServerMetrics", "ServerTiming", "Started", "SweepPoint", "SweepResult", "TextStream"),
    *("Timing", "Token", "TokenStream", "ToolCall", "Usage", "WireRequest"),
}
SHAPES = {
    *("Arrivals", "BatchOptions", "ChatOptions", "GenerateOptions", "Limiter", "Permit"),
    *("Transport", "WireResponse"),
}
TAKES_ANYTHING = {"ASGITransport"}  # an application is known by its being called


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.make}({case.named})")
def test_a_wrong_argument_is_refused_by_name_with_the_error_that_the_rule_says(
    case: Wrong,
) -> None:
    with pytest.raises(case.error) as caught:
        getattr(lorry, case.make)(*case.arguments, **case.options)

    assert type(caught.value) is case.error
    assert case.named in str(caught.value)


def test_every_public_class_that_a_caller_makes_is_among_the_cases() -> None:
    classes = {
        name
        for name in lorry.__all__
        if inspect.isclass(item := getattr(lorry, name)) and not issubclass(item, Exception)
    }

    assert {case.make for case in CASES} | TAKES_ANYTHING == classes - MADE_BY_THE_SDK - SHAPES
