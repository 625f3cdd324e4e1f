"""How a batch is run: the keyword arguments of `map` that are not those of one generation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args

from lorry.batch.arrivals import Arrivals
from lorry.batch.progress import Progress
from lorry.limits.base import Limiter
from lorry.options import GenerateOptions, canonical, not_an_option

DEFAULT_CONCURRENCY = 64

Order: TypeAlias = Literal["input", "completion"]
OnError: TypeAlias = Literal["raise", "return", "skip"]
ShowProgress: TypeAlias = bool | Callable[[Progress], object]


class BatchOptions(GenerateOptions, total=False):
    """The options of a batch, and those of a generation, which all its items share.

    A `deadline` is that of each item, from when its turn comes.
    """

    concurrency: int | Limiter | None  # so many in flight; 64, or no limit with `arrivals`
    order: Order  # of the results; "input" if not said
    window: int | None  # finished results that may wait; as many as `concurrency`
    arrivals: Arrivals | None  # a schedule instead of sending when an answer has come
    progress: ShowProgress  # a bar on stderr, or a function that is told of every finished item
    journal: str | os.PathLike[str] | None  # finished items are kept here and not run again


_OF_BATCH = frozenset(BatchOptions.__annotations__) - frozenset(GenerateOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class BatchSettings:
    """Checked and complete. `shared` are options of generations.

    `concurrency` None is no limit but `limiter`. `window` is that of finished results that may wait
    to be taken, with a limiter together with the items that wait for their permit.
    """

    concurrency: int | None
    limiter: Limiter | None
    window: int
    order: Order
    on_error: OnError
    arrivals: Arrivals | None
    progress: ShowProgress
    journal: Path | None
    shared: Mapping[str, Any]

    @classmethod
    def read(
        cls,
        options: Mapping[str, Any],
        *,
        on_error: str,
        defaults: Mapping[str, Any] | None = None,
    ) -> Self:
        """`defaults` are options of the client that hold where `options` says nothing.

        Raises TypeError or ValueError that names what is wrong and what would be right.
        """
        _refuse_unknown(options)
        given = {name: options[name] for name in _OF_BATCH & options.keys()}
        shared = canonical({k: v for k, v in options.items() if k not in _OF_BATCH})
        if "request_id" in shared:
            raise TypeError("request_id belongs to one request; give it in Request(...)")
        arrivals = given.get("arrivals")
        if arrivals is not None and not isinstance(arrivals, Arrivals):
            raise TypeError(
                f"arrivals is {arrivals!r}; it must be a lorry.Constant, Poisson, Gamma or Trace"
            )
        concurrency, limiter = _places(given.get("concurrency"))
        if concurrency is None and limiter is None and arrivals is None:
            concurrency = DEFAULT_CONCURRENCY
        window = _count("window", given.get("window"), least=0)
        if window is not None and arrivals is not None:
            raise ValueError("window is for a closed loop: with arrivals nothing waits for results")
        progress = given.get("progress", False)
        if not (isinstance(progress, bool) or callable(progress)):
            raise TypeError(f"progress is {progress!r}; it must be True, False or a function")
        journal = given.get("journal")
        return cls(
            concurrency=concurrency,
            limiter=limiter,
            window=(concurrency or DEFAULT_CONCURRENCY) if window is None else window,
            order=_one_of("order", given.get("order", "input"), get_args(Order)),
            on_error=_one_of("on_error", on_error, get_args(OnError)),
            arrivals=arrivals,
            progress=progress,
            journal=None if journal is None else Path(journal),
            shared={**(defaults or {}), **shared},
        )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = BatchOptions.__annotations__
    for name in options:
        if name not in known:
            raise TypeError(not_an_option(name, known))


def _places(given: int | Limiter | None) -> tuple[int | None, Limiter | None]:
    """A number or a limiter, whichever it is."""
    if isinstance(given, Limiter) and not isinstance(given, type):
        return None, given
    if given is not None and (not isinstance(given, int) or isinstance(given, bool)):
        raise TypeError(
            f"concurrency is {given!r}; it must be a whole number, a lorry.Limit, AdaptiveLimit, "
            "RateLimit or other Limiter, or None"
        )
    return _count("concurrency", given, least=1), None


def _count(name: str, value: int | None, *, least: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; it must be a whole number or None")
    if value < least:
        raise ValueError(f"{name} is {value}; it must be at least {least}")
    return value


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> Any:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")
    return value
