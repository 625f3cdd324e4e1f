"""The ways in which the mock server can be wrong, for tests of what notices it."""

from __future__ import annotations

from typing import Literal, get_args

Fault = Literal[
    "http_429",
    "http_500",
    "error_event",
    "cut",
    "no_done",
    "garbage",
    "hang",
    "stall",
    "buffered",
    "coalesced",
    "role_chunk",
    "early_text",
    "wrong_usage",
    "short",
    "wrong_adapter",
    "slow_adapter",
    "cached",
    "long_template",
    "closing",
]

FAULTS: tuple[Fault, ...] = get_args(Fault)

MEANING: dict[Fault, str] = {
    "http_429": "refused: the server is full",
    "http_500": "refused: the server failed",
    "error_event": "an error inside the stream, half way",
    "cut": "the connection is closed half way",
    "no_done": "the stream ends without [DONE], half way",
    "garbage": "an event that is no JSON, half way",
    "hang": "no answer, for ever",
    "stall": "a pause half way",
    "buffered": "everything is sent at the end, as a proxy does that collects an answer",
    "coalesced": "four events at a time, in one write",
    "role_chunk": "an event without a token comes at once, before the first one",
    "early_text": "a token that was not computed comes at once, and the usage counts it",
    "wrong_usage": "the usage says one token more than came",
    "short": "the answer ends half way, with a good finish",
    "wrong_adapter": "the text is that of another adapter",
    "slow_adapter": "the first adapter takes six times as long",
    "cached": "half of the prompt is said to have been in the prefix cache",
    "long_template": "the prompt is said to be 200 tokens longer than what was sent",
    "closing": "the connection is closed after the answer",
}
