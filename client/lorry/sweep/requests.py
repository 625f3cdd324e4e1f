"""The requests of a point: the same prompts in the same order at every point of a study."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from itertools import count

from lorry.batch.journal import item_key
from lorry.batch.request import Item, Request, as_request
from lorry.sweep.point import PointSetting

SYNTHETIC = "synthetic"
_NUM_WORDS = 32
_WORDS = """
    harbour lantern copper river window garden thunder silver mountain letter engine winter
    orchard bridge candle market shadow forest hammer island kettle ladder meadow needle ocean
    pepper quarry ribbon saddle timber valley wagon anchor basket cellar dragon ember feather
    granite hollow ivory jacket kernel linen marble nectar oyster parcel quiver raven summit
    turnip velvet walnut zephyr amber beacon cobalt drift echo fable glacier hazel
""".split()  # noqa: SIM905  # nobody would read a list of them


class PromptPool:
    """Where the prompts of a study come from: a seeded shuffle of those given, or made ones.

    Made prompts are 32 words of no meaning, unlike from their first word on at every point, so
    that no prefix cache helps. Given ones come round again when there are more requests.
    """

    def __init__(self, prompts: Sequence[Item] | None, *, seed: int) -> None:
        """Raises TypeError or ValueError for prompts that cannot be those of a study."""
        self._seed = seed
        self._given: list[Request] | None = None
        if prompts is not None:
            if isinstance(prompts, str) or not isinstance(prompts, Sequence):
                raise TypeError(f"prompts is of type {type(prompts).__name__}; it must be a list")
            if not prompts:
                raise ValueError("prompts is empty; leave it out for made ones")
            self._given = [_checked(as_request(item, index=i)) for i, item in enumerate(prompts)]

    @property
    def digest(self) -> str:
        """By which a study is known to have had the same prompts."""
        if self._given is None:
            return SYNTHETIC
        keys = "".join(
            item_key(i, request, request.options) for i, request in enumerate(self._given)
        )
        return hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()

    def requests(self, setting: PointSetting) -> Iterator[Request]:
        """Without end; the tag of each is its number."""
        order = list(range(len(self._given or ())))
        random.Random(f"{self._seed}/order").shuffle(order)
        for index in count():
            if self._given is None:
                base = Request(_made_prompt(f"{self._seed}/{setting}/{index}"))
            else:
                base = self._given[order[index % len(order)]]
            options = {
                **base.options,
                # "" is the base model, whatever the client does by default
                "adapter": setting.adapters[index % len(setting.adapters)] or "",
                "max_tokens": max_tokens_of(setting, index),
                "tag": index,
            }
            yield Request(base.prompt, messages=base.messages, **options)


def max_tokens_of(setting: PointSetting, index: int) -> int:
    """The next limit once every adapter has had the last, so that each adapter gets each limit."""
    return setting.max_tokens[index // len(setting.adapters) % len(setting.max_tokens)]


def _checked(request: Request) -> Request:
    for name in ("adapter", "max_tokens", "tag"):
        if name in request.options:
            raise ValueError(f"a prompt of a sweep sets {name!r}, which the sweep sets itself")
    return request


def _made_prompt(seed: str) -> str:
    draw = random.Random(seed)
    return " ".join([f"{draw.randrange(10**9)}:", *draw.choices(_WORDS, k=_NUM_WORDS)])
