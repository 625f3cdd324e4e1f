"""The input of a batch, pulled one item at a time whether it is asynchronous or not."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Final

from lorry.batch.request import Items, Request, as_request

_END: Final = object()


class ItemSource:
    """Numbers the items as they come. Nothing is read ahead."""

    def __init__(self, items: Items) -> None:
        if isinstance(items, (str, bytes)):
            raise TypeError("prompts is one string; give a list of prompts, or use generate")
        self.total = len(items) if isinstance(items, Sized) else None
        self._next_index = 0
        self._plain: Iterator[object] | None = None
        self._asynchronous: AsyncIterator[object] | None = None
        if isinstance(items, AsyncIterable):
            self._asynchronous = aiter(items)
        elif isinstance(items, Iterable):
            self._plain = iter(items)
        else:
            raise TypeError(
                f"prompts is of type {type(items).__name__}; it must be an iterable or an "
                "asynchronous iterable"
            )

    async def next(self) -> tuple[int, Request] | None:
        """The next item with its position, or None after the last."""
        if self._plain is not None:
            item = next(self._plain, _END)
        else:
            assert self._asynchronous is not None
            item = await anext(self._asynchronous, _END)
        if item is _END:
            return None
        index = self._next_index
        self._next_index += 1
        return index, as_request(item, index=index)
