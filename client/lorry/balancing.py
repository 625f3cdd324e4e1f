"""Which of a client's servers gets an attempt: sticky by adapter, by load otherwise.

An adapter has a favourite among the servers, chosen by weighted rendezvous hashing (Thaler and
Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998; weights after Schindelhauer and
Schomaker, SPAA 2005), so that few servers have to hold it and a change of the list moves only the
adapters that it must. Requests for the base model, and for an adapter whose favourite is much
busier than the rest, go to the less busy of two servers drawn at random (Mitzenmacher, IEEE TPDS
12(10), 2001). No I/O: clock and random numbers are given.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import msgspec

from lorry.ejection import Ejection
from lorry.endpoints import Endpoint
from lorry.errors import (
    AdapterLoading,
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    HTTPStatusError,
    ServerStreamError,
    StreamTruncated,
)
from lorry.retry import BudgetAccount, RetryBudget

# a favourite is left for others above this many in flight, when it has this many times their mean
FEW_IN_FLIGHT = 8
MUCH_BUSIER = 1.5
# as TCP smooths its round trips (RFC 6298)
SMOOTHING = 0.125
MAX_REMEMBERED_ADAPTERS = 4096


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """What one server has had of one client. `answer_takes_s` is the smoothed time from sending to
    the first token, or to the answer when it is not streamed."""

    url: str
    weight: float
    num_in_flight: int
    num_attempts: int
    num_retries: int
    num_retries_refused: int
    num_failures: int
    is_ejected: bool
    answer_takes_s: float | None


class EndpointState:
    """What a client knows of one server. The balancer owns it; others read it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url = endpoint.url
        self.ejection = Ejection()
        self.num_in_flight = 0
        self.num_attempts = 0
        self.num_retries = 0
        self.num_retries_refused = 0
        self.num_failures = 0
        self.answer_takes_s: float | None = None
        # whether its answers repeat the idempotency key, by which a server says that it heeds it
        self.heeds_keys = False
        self.accounts: dict[RetryBudget, BudgetAccount] = {}
        self.last_account: tuple[RetryBudget, BudgetAccount] | None = None

    @property
    def load(self) -> float:
        return self.num_in_flight / self.endpoint.weight


class Balancer:
    """The servers of one client. Its methods may be called from several threads."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random.random,
    ) -> None:
        self.states = tuple(EndpointState(endpoint) for endpoint in endpoints)
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._rankings: dict[str, tuple[EndpointState, ...]] = {}

    def choose(
        self, adapter: str | None, *, tried: Collection[EndpointState] = ()
    ) -> EndpointState:
        """The server for the next attempt of a call; not one that was tried, if there is another."""
        if len(self.states) == 1:
            return self.states[0]
        with self._lock:
            now = self._clock()
            fit = [state for state in self.states if _is_fit(state, now)] or self.states
            candidates = [state for state in fit if state not in tried] or fit
            if len(candidates) == 1:
                return candidates[0]
            if adapter is not None:
                favourite = next(s for s in self._ranking(adapter) if s in candidates)
                if not _is_much_busier(favourite, candidates):
                    return favourite
            return self._less_busy_of_two(candidates)

    def begin(self, state: EndpointState, *, pays_in: RetryBudget | None = None) -> Visit:
        """An attempt is sent to a server; the first of a call pays into its retry budget there."""
        with self._lock:
            state.num_in_flight += 1
            state.num_attempts += 1
            if pays_in is not None:
                now = self._clock()
                self._account(state, pays_in, now).deposit(now)
        return Visit(self, state)

    def pay_out(self, state: EndpointState, budget: RetryBudget | None) -> bool:
        """A retry wants to go to this server. Returns whether its budget allows that."""
        with self._lock:
            now = self._clock()
            allowed = budget is None or self._account(state, budget, now).withdraw(now)
            if allowed:
                state.num_retries += 1
            else:
                state.num_retries_refused += 1
        return allowed

    def stats(self) -> list[EndpointStats]:
        """One record for each server, in the order in which they were given."""
        with self._lock:
            now = self._clock()
            return [
                EndpointStats(
                    url=state.url,
                    weight=state.endpoint.weight,
                    num_in_flight=state.num_in_flight,
                    num_attempts=state.num_attempts,
                    num_retries=state.num_retries,
                    num_retries_refused=state.num_retries_refused,
                    num_failures=state.num_failures,
                    is_ejected=state.ejection.is_out(now),
                    answer_takes_s=state.answer_takes_s,
                )
                for state in self.states
            ]

    def _ended(
        self, state: EndpointState, error: BaseException | None, answer_took_s: float | None
    ) -> None:
        with self._lock:
            now = self._clock()
            state.num_in_flight -= 1
            if answer_took_s is not None:
                before = state.answer_takes_s
                state.answer_takes_s = (
                    answer_took_s
                    if before is None
                    else before + SMOOTHING * (answer_took_s - before)
                )
            if error is None:
                state.ejection.succeeded(now)
            elif is_servers_fault(error):
                state.num_failures += 1
                if state.ejection.failed(now) and self._others_serve(state, now):
                    state.ejection.eject(now)
            elif isinstance(error, HTTPStatusError):
                state.ejection.succeeded(now)

    def _others_serve(self, state: EndpointState, now: float) -> bool:
        """Whoever is left out, somebody has to remain."""
        return any(other is not state and not other.ejection.is_out(now) for other in self.states)

    def _account(self, state: EndpointState, budget: RetryBudget, now: float) -> BudgetAccount:
        last = state.last_account
        if last is not None and last[0] is budget:  # spares the hash in nearly every call
            return last[1]
        account = state.accounts.get(budget)
        if account is None:
            account = state.accounts[budget] = BudgetAccount(budget, now=now)
        state.last_account = (budget, account)
        return account

    def _ranking(self, adapter: str) -> tuple[EndpointState, ...]:
        ranking = self._rankings.get(adapter)
        if ranking is None:
            if len(self._rankings) >= MAX_REMEMBERED_ADAPTERS:
                self._rankings.clear()
            ranking = tuple(
                sorted(
                    self.states, key=lambda s: rendezvous_score(adapter, s.endpoint), reverse=True
                )
            )
            self._rankings[adapter] = ranking
        return ranking

    def _less_busy_of_two(self, candidates: Sequence[EndpointState]) -> EndpointState:
        first = self._draw(candidates)
        second = self._draw([state for state in candidates if state is not first])
        return second if second.load < first.load else first

    def _draw(self, candidates: Sequence[EndpointState]) -> EndpointState:
        """One at random, each as likely as its weight says."""
        mark = self._random() * sum(state.endpoint.weight for state in candidates)
        for state in candidates:
            mark -= state.endpoint.weight
            if mark < 0:
                return state
        return candidates[-1]


class Visit(msgspec.Struct, gc=False):
    """One attempt's stay at a server, from sending to the end of the answer."""

    balancer: Balancer
    state: EndpointState
    is_over: bool = False

    def end(self, error: BaseException | None, *, answer_took_s: float | None = None) -> None:
        """`error` is what ended it, None for success. Only the first call counts."""
        if not self.is_over:
            self.is_over = True
            self.balancer._ended(self.state, error, answer_took_s)


def rendezvous_score(adapter: str, endpoint: Endpoint) -> float:
    """The higher, the more a server is an adapter's own; the same in every process."""
    import hashlib  # takes time and memory, and a client of one server does without

    digest = hashlib.blake2b(f"{endpoint.url}\0{adapter}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 0.5) / 2.0**64
    return -endpoint.weight / math.log(uniform)


def is_servers_fault(error: BaseException | None) -> bool:
    """Whether an attempt's end speaks against the server rather than the request or the caller."""
    if isinstance(error, HTTPStatusError):
        return (error.status or 0) >= 500 and not isinstance(error, AdapterLoading)
    if isinstance(error, DeadlineExceeded):
        # while tokens come, or in this client's own queue, it is the caller who had no time
        return error.phase not in ("total", "queue")
    return isinstance(error, (ConnectError, ConnectionLost, StreamTruncated, ServerStreamError))


def _is_fit(state: EndpointState, now: float) -> bool:
    if state.ejection.is_out(now):
        return False
    return not (state.ejection.is_on_probation(now) and state.num_in_flight > 0)


def _is_much_busier(favourite: EndpointState, candidates: Sequence[EndpointState]) -> bool:
    if favourite.num_in_flight <= FEW_IN_FLIGHT:
        return False
    weight = sum(state.endpoint.weight for state in candidates)
    mean = sum(state.num_in_flight for state in candidates) / weight
    return favourite.load > MUCH_BUSIER * mean
