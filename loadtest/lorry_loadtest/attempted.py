"""What every way of making an attempt has in common: who sends, what is returned, the record's plan."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gevent import GreenletExit

from lorry_loadtest.connection import Connection
from lorry_loadtest.limits import Limits
from lorry_loadtest.phases import Phase
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.wire import Wire

# Returns what is wrong with a finished answer's text, or None.
Verify = Callable[[PlannedRequest, str], str | None]


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, as the record tells it."""

    scenario: str = ""
    phase: Phase = "run"
    level: int = 0
    worker: int = 0
    user: int = 0


class Tries(Protocol):
    """How an attempt is made: `attempt`, or `sdk_attempt` through the SDK."""

    def __call__(
        self,
        planned: PlannedRequest,
        *,
        wire: Wire,
        connection: Connection,
        limits: Limits,
        origin_ns: int,
        start_ns: int = 0,
        sender: Sender | None = None,
        verify: Verify | None = None,
    ) -> Attempted: ...


@dataclass(frozen=True, slots=True)
class Attempted:
    """A finished attempt. `interrupted` is the kill that ended it, to be raised again."""

    record: RequestRecord
    text: str
    interrupted: GreenletExit | None = None


def record_of(
    planned: PlannedRequest, *, sender: Sender | None, begin_ns: int, start_ns: int, **seen: Any
) -> RequestRecord:
    """The record of a planned request, with the fields that were `seen` of its attempt.

    `begin_ns` is when the client turned to it. A request without a planned time was due then, and
    the planned times of the others count from `start_ns`.
    """
    sender = sender or Sender()
    return RequestRecord(
        index=planned.index,
        phase=sender.phase,
        scenario=sender.scenario,
        level=sender.level,
        worker=sender.worker,
        user=sender.user,
        adapter=planned.adapter,
        route=planned.route,
        prompt_tokens_planned=planned.num_prompt_words,
        max_tokens=planned.max_tokens,
        prompt_hash=planned.prompt_hash,
        canary=planned.canary,
        t_sched_ns=begin_ns if planned.at_ns is None else start_ns + planned.at_ns,
        t_begin_ns=begin_ns,
        **seen,
    )


def complaint_of(verify: Verify | None, planned: PlannedRequest, text: str) -> str | None:
    """What `verify` says. It is a locustfile's code: when that fails, the answer was not checked,
    and the attempt is on record as that rather than nowhere."""
    if verify is None:
        return None
    try:
        return verify(planned, text)
    except Exception as exc:
        return f"the check of the answer failed itself: {exc!r}"


def hash_of(text: str) -> str:
    """The first 64 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
