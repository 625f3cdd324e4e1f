"""`AnswerMemory`: the answers to requests with an idempotency key, under way and complete.

Only data: who sends and receives is for `idempotency`. It belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorry_server.http.deadline import Deadline
from lorry_server.http.idempotency_key import IdempotencyKey

MIB = 1024 * 1024

# A client that sends a request again does so soon: the official clients wait at most two minutes.
KEPT_S = 600.0
MAX_ANSWERS = 4096
MAX_BYTES = 16 * MIB
MAX_ANSWER_BYTES = MIB
CHUNK_OVERHEAD_BYTES = 64  # of a bytes object and its place in a list

Header = tuple[bytes, bytes]


class Follower:
    """Somebody who reads an answer; `place` is the number of the chunk that it reads next."""

    __slots__ = ("place",)

    def __init__(self) -> None:
        self.place = 0


class SharedAnswer:
    """One answer, while it comes and after: its head and its chunks, for whoever else wants it.

    `status` is None until the head is there. `has_ended` says that nothing more comes; the answer
    is whole if `is_complete`. Without `is_replayable` it was too long to remember, or had to make
    room: nobody can begin to read it any more, who has begun reads on. Then `chunks` are
    little more than what one of them has still to read, and `num_read` were before them.
    """

    def __init__(
        self, key: IdempotencyKey, fingerprint: bytes, *, deadline: Deadline | None = None
    ) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.deadline = deadline  # of the request that is computed, until that has ended
        self.status: int | None = None
        self.headers: list[Header] = []
        self.chunks: list[bytes] = []
        self.num_bytes = 0
        self.num_read = 0
        self.is_complete = False
        self.has_ended = False
        self.is_replayable = True
        self.ended_s = 0.0
        self._followers: set[Follower] = set()
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_stream(self) -> bool:
        """Whether its body is events, which come one by one."""
        return any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in self.headers
        )

    @property
    def num_followers(self) -> int:
        return len(self._followers)

    async def change(self) -> None:
        """Return when the answer has grown or ended, or a follower has left."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    @contextmanager
    def followed(self) -> Iterator[Follower]:
        """As long as the block runs somebody reads the answer, and it is worth going on with.

        The deadline of the request that is computed, which is not the reader's, is lifted.
        """
        if self.deadline is not None:
            self.deadline.lift()
        follower = Follower()
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.remove(follower)
            self.forget_read()
            self.wake()

    def next_chunk(self, follower: Follower) -> bytes | None:
        """Return what `follower` reads next; None if it has not come."""
        if follower.place == self.num_read + len(self.chunks):
            return None
        chunk = self.chunks[follower.place - self.num_read]
        follower.place += 1
        self.forget_read()
        return chunk

    def is_read_by(self, follower: Follower) -> bool:
        """Whether the answer is whole and `follower` has had all of it."""
        return self.is_complete and follower.place == self.num_read + len(self.chunks)

    def forget_read(self) -> None:
        """Let go of what nobody is going to read any more.

        Not before it is half of what is there: what is left has to be moved.
        """
        if self.is_replayable:
            return
        num_chunks = self.num_read + len(self.chunks)
        first = min((follower.place for follower in self._followers), default=num_chunks)
        if 2 * (first - self.num_read) >= len(self.chunks):
            del self.chunks[: first - self.num_read]
            self.num_read = first

    def wake(self) -> None:
        """Tell those who wait for a change that there is one."""
        if not self._waiters:
            return
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class AnswerMemory:
    """At most `max_answers` ended answers, each for `kept_s`, and `max_bytes` of all together.

    What is short of room is taken from the answers that ended longest ago, then from those that
    are under way; these are then known to exist and cannot be replayed. `clock` gives seconds.
    """

    def __init__(
        self,
        *,
        kept_s: float = KEPT_S,
        max_answers: int = MAX_ANSWERS,
        max_bytes: int = MAX_BYTES,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_bytes = 0
        self._kept_s = kept_s
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._max_answer_bytes = max_answer_bytes
        self._clock = clock
        self._under_way: dict[IdempotencyKey, SharedAnswer] = {}
        self._ended: OrderedDict[IdempotencyKey, SharedAnswer] = OrderedDict()  # oldest first
        self._replayable: deque[SharedAnswer] = deque()  # those of them that have a body

    def __len__(self) -> int:
        return len(self._under_way) + len(self._ended)

    def find(self, key: IdempotencyKey) -> SharedAnswer | None:
        """Return the answer to the request with this key, under way or complete, if it is known."""
        self._forget_old()
        return self._under_way.get(key) or self._ended.get(key)

    def begin(
        self, key: IdempotencyKey, fingerprint: bytes, *, deadline: Deadline | None = None
    ) -> SharedAnswer:
        """Remember that a request is being answered; its key must not be known."""
        assert self.find(key) is None
        answer = self._under_way[key] = SharedAnswer(key, fingerprint, deadline=deadline)
        return answer

    def add_head(self, answer: SharedAnswer, status: int, headers: list[Header]) -> None:
        answer.status, answer.headers = status, headers
        answer.wake()

    def add_chunk(self, answer: SharedAnswer, chunk: bytes, *, is_last: bool) -> None:
        """Add a piece of the body. It is kept if there is room, or somebody is still to read it."""
        if answer.is_replayable:
            self._grow(answer, len(chunk) + CHUNK_OVERHEAD_BYTES)
        if answer.is_replayable or answer.num_followers:
            answer.chunks.append(chunk)
        answer.is_complete = is_last
        answer.wake()

    def keep(self, answer: SharedAnswer) -> None:
        """The answer is complete: a request with its key is to get it from now on."""
        assert answer.is_complete
        if self._under_way.get(answer.key) is not answer:
            self.forget(answer)  # given up meanwhile
            return
        del self._under_way[answer.key]
        answer.ended_s = self._clock()
        self._ended[answer.key] = answer
        if answer.is_replayable:
            self._replayable.append(answer)
        while len(self._ended) > self._max_answers:
            self._drop_oldest()
        self._end(answer)

    def forget(self, answer: SharedAnswer) -> None:
        """Do as if the request had never come: the next one with its key is computed."""
        if self._under_way.get(answer.key) is answer:
            del self._under_way[answer.key]
        self._release(answer)
        self._end(answer)

    def _end(self, answer: SharedAnswer) -> None:
        answer.has_ended = True
        answer.deadline = None  # it knows the streams of the request, which may go now
        answer.wake()

    def _grow(self, answer: SharedAnswer, num_bytes: int) -> None:
        answer.num_bytes += num_bytes
        self.num_bytes += num_bytes
        if answer.num_bytes > self._max_answer_bytes:
            self._release(answer)
            return
        while self.num_bytes > self._max_bytes and self._replayable:
            self._release(self._replayable.popleft())
        if self.num_bytes > self._max_bytes:
            self._release(answer)

    def _release(self, answer: SharedAnswer) -> None:
        """Give the body's memory back, as far as nobody is reading it."""
        self.num_bytes -= answer.num_bytes
        answer.num_bytes = 0
        answer.is_replayable = False
        answer.forget_read()

    def _forget_old(self) -> None:
        oldest_s = self._clock() - self._kept_s
        while self._ended and next(iter(self._ended.values())).ended_s <= oldest_s:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, answer = self._ended.popitem(last=False)
        if self._replayable and self._replayable[0] is answer:
            self._replayable.popleft()
        self._release(answer)
