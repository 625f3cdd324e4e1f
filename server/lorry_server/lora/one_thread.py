"""`on_one_thread`: torch without its team of threads, for work beside a model that computes.

The matrices of adapters are small. To share them out costs more than it saves, and a team of which one
thread waits for a core keeps the others spinning on theirs: beside a busy model, loading an adapter took
twenty times as long, and what it took was taken from the streams.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Let torch compute on the calling thread alone inside the block; other threads keep theirs."""
    before = torch.get_num_threads()
    if before == 1:  # also what a thread finds that is new while another one is inside
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
