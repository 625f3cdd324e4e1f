"""A thread that does nothing but read sockets and note when the kernel got the bytes.

Linux stamps what it receives (`SO_TIMESTAMPNS`, a control message of `recvmsg`; on TCP the stamp is
that of the last byte that the call returned). So it does not matter when this thread gets to run,
only that it runs before the next event of the same stream comes: the kernel merges what waits, and
merged events have one stamp. Greenlets that compute, or code of a locustfile that blocks, hold the
thread back by no more than the interpreter's switch interval, which is made short here. Parsing is
left to the greenlets, in batches, since a stamp is not worth more for being parsed at once.
"""

from __future__ import annotations

import contextlib
import select as select_names
import socket as socket_names
import struct
import sys
import time
from collections import deque
from typing import Any

from gevent import get_hub
from gevent.event import Event
from gevent.monkey import get_original

from lorry_loadtest.observations import ClockSample
from lorry_loadtest.stream_reads import Read
from lorry_loadtest.wall_clock import WallClock

# Of <asm-generic/socket.h>; the socket module has no name for it.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")
_CONTROL_BYTES = 64
_READ_BYTES = 16_384
_SWITCH_INTERVAL_S = 50e-6
# Wake the greenlet after so many reads even if the answer goes on.
_BATCH_READS = 64
# The end of a chunked body is b"0\r\n\r\n" and may come in pieces, of which each is this small.
_SMALL_BYTES = 16


def kernel_can_stamp() -> bool:
    """Whether this platform has what the thread needs."""
    return sys.platform == "linux"


class StampingThread:
    """One per process, started with its first socket and never stopped: it sleeps without them.

    It owns the sockets that it is given: it alone reads and closes them.
    """

    def __init__(self) -> None:
        self.clock = WallClock()
        self._streams: dict[int, StampedStream] = {}
        self._ready: deque[StampedStream] = deque()
        # locust has replaced or removed these in their modules
        self._epoll = get_original("select", "epoll")()
        # the loop is woken through this, the only thing of it that other threads may touch
        self._wake = get_hub().loop.async_(ref=False)
        self._wake.start(self._wake_greenlets)
        # stamping is switched on for the machine with the first socket that wants it, a moment
        # later; one that stays open keeps it on between connections
        self._anchor = get_original("socket", "socket")(
            socket_names.AF_INET, socket_names.SOCK_DGRAM
        )
        self._anchor.setsockopt(socket_names.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
        get_original("_thread", "start_new_thread")(self._run, ())

    def adopt(self, fd: int) -> StampedStream:
        """Takes over a connected socket by its descriptor."""
        native: socket_names.socket = get_original("socket", "socket")(fileno=fd)
        native.setblocking(False)
        with contextlib.suppress(OSError):  # then there are no kernel stamps, and records say so
            native.setsockopt(socket_names.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        stream = StampedStream(native)
        self._streams[fd] = stream
        self._epoll.register(fd, select_names.POLLIN)
        return stream

    def _run(self) -> None:
        poll, streams, ready = self._epoll.poll, self._streams, self._ready
        clock, wake = self.clock, self._wake.send
        while True:
            events = poll()
            clock.refresh(time.perf_counter_ns())
            has_news = False
            for fd, _ in events:
                stream = streams[fd]
                if stream.read_once(clock.offset_ns):
                    ready.append(stream)
                    has_news = True
                if stream.ended:
                    self._release(fd, stream)
            if has_news:
                wake()

    def _release(self, fd: int, stream: StampedStream) -> None:
        del self._streams[fd]
        self._epoll.unregister(fd)
        stream.close_socket()

    def _wake_greenlets(self) -> None:
        while self._ready:
            self._ready.popleft().woken.set()


class StampedStream:
    """Implements `ReadStream`; the thread appends reads, the greenlet takes them."""

    def __init__(self, native: Any) -> None:
        self.ended = False
        self.error: OSError | None = None
        self.last_read_ns = 0
        self.woken = Event()
        self._native = native
        self._reads: deque[Read] = deque()
        self._num_reads = 0
        self._every_read = False

    @property
    def fd(self) -> int:
        """-1 when the connection has ended."""
        number: int = self._native.fileno()
        return number

    @property
    def is_idle(self) -> bool:
        return not self.ended and not self._reads

    def arm(self) -> None:
        self._num_reads = 0
        self._every_read = False

    def send(self, data: memoryview) -> int:
        """As much as the socket takes; raises OSError, BlockingIOError when it is full."""
        sent: int = self._native.send(data)
        return sent

    def wait_reads(self) -> list[Read]:
        while True:
            self.woken.clear()
            ended = self.ended  # before the reads are taken: what came before the end is kept
            reads = [self._reads.popleft() for _ in range(len(self._reads))]
            if reads or ended:
                return reads
            self.woken.wait()

    def hand_over_each_read(self) -> None:
        self._every_read = True

    def poke(self) -> None:
        if self._reads:
            self.woken.set()

    def abort(self) -> None:
        # the thread sees the end of the stream and closes the socket
        with contextlib.suppress(OSError):
            self._native.shutdown(socket_names.SHUT_RDWR)

    def read_once(self, offset_ns: int) -> bool:
        """In the thread: one read, as the socket is readable; true when the greenlet should look."""
        try:
            data, control, _, _ = self._native.recvmsg(_READ_BYTES, _CONTROL_BYTES)
        except BlockingIOError:
            return False
        except OSError as exc:
            self.error = exc
            data, control = b"", []
        user_ns = time.perf_counter_ns()
        if not data:
            self.ended = True
            return True
        kernel_ns = 0
        if control and control[0][1] == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(control[0][2])
            kernel_ns = seconds * 1_000_000_000 + nanoseconds - offset_ns
        self._reads.append(Read(kernel_ns, user_ns, data))
        self.last_read_ns = user_ns
        self._num_reads += 1
        return (
            self._num_reads == 1
            or self._every_read
            or self._num_reads % _BATCH_READS == 0
            or len(data) < _SMALL_BYTES
            or data.endswith(b"\r\n\r\n")
        )

    def close_socket(self) -> None:
        """In the thread."""
        self._native.close()


_thread: StampingThread | None = None


def stamping_thread() -> StampingThread:
    """This process's one. A worker that was forked has none of its parent's threads, so it is
    started only when a connection is opened, which no parent of workers does."""
    global _thread
    if _thread is None:
        _thread = StampingThread()
    return _thread


def clock_samples(origin_ns: int) -> tuple[ClockSample, ...]:
    """The wall clock's offsets as they were seen, with times from `origin_ns`; none without a
    thread."""
    if _thread is None:
        return ()
    return tuple(
        ClockSample(sample.t_ns - origin_ns, sample.realtime_offset_ns)
        for sample in _thread.clock.samples
        if sample.t_ns >= origin_ns
    )
