"""What a connection hands over: reads with their stamps, whoever took them."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Read(NamedTuple):
    """`kernel_ns` is when the last of the bytes reached this machine, 0 where nobody stamped it;
    `user_ns` is when the read returned. Both are on the monotonic clock."""

    kernel_ns: int
    user_ns: int
    data: bytes


class ReadStream(Protocol):
    """The receiving side of one connection. Belongs to one greenlet at a time."""

    ended: bool
    error: OSError | None
    last_read_ns: int

    def arm(self) -> None:
        """A request is about to be sent: nothing of an answer has come."""

    def wait_reads(self) -> list[Read]:
        """Blocks this greenlet for more reads, in order; an empty list is the end."""

    def hand_over_each_read(self) -> None:
        """From now on wake for every read: the end of this answer cannot be told by its bytes."""

    def poke(self) -> None:
        """Wakes the reader if reads are waiting for it."""

    def abort(self) -> None:
        """Ends the connection from another greenlet; the reader gets its end."""

    @property
    def is_idle(self) -> bool:
        """Whether the connection is open and nothing has come unasked."""
