"""A request about a list of texts, which is answered with one thing for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lorry.errors import StreamProtocolError
from lorry.exchange import Exchange
from lorry.options import CallOptions
from lorry.request_body import encode_body
from lorry.session import Session, answer_to
from lorry.telemetry import observed

if TYPE_CHECKING:
    from lorry.classify import Classified
    from lorry.embeddings import Embeddings

_Answer = TypeVar("_Answer")
_Result = TypeVar("_Result", bound="Embeddings | Classified[Any]")


def as_texts(inputs: str | Sequence[str]) -> list[str]:
    """One text is a list of one."""
    return [inputs] if isinstance(inputs, str) else list(inputs)


async def ask_about(
    texts: list[str],
    *,
    session: Session,
    path: str,
    body: dict[str, Any],
    options: CallOptions,
    answer_type: type[_Answer],
    read: Callable[[_Answer, Exchange], _Result],
) -> _Result:
    """Send it, wait for the answer, and make a result of that by `read`. Raises ClientError.

    Where `read` raises StreamProtocolError, because the answer does not fit the texts, the call has
    failed with it.
    """
    exchange = session.exchange(
        "POST",
        path,
        options=options,
        body=encode_body(body, options.extra_body),
        takes_turn=True,
        any_server=True,
    )

    async def result() -> _Result:
        answer = await answer_to(exchange, answer_type)
        try:
            return read(answer, exchange)
        except StreamProtocolError as error:
            exchange.describe(error)
            raise

    if session.telemetry is None:
        return await result()
    observation = session.telemetry.begin(path, texts, options, is_streamed=False)
    return await observed(observation, result())


def check_one_each(things: Sequence[object], texts: Sequence[str], *, called: str) -> None:
    """Raises StreamProtocolError unless there is one thing for each text."""
    if len(things) != len(texts):
        raise StreamProtocolError(f"{len(things)} {called} came for {len(texts)} inputs")
