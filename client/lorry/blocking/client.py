"""`Client`: generations and streams from one server, for code without an event loop."""

from __future__ import annotations

import inspect
import time
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Never, Self, Unpack

from lorry.asking_again import pauses_s
from lorry.assembly import CHAT, COMPLETIONS
from lorry.blocking.adapters import BlockingAdapters
from lorry.blocking.generate_route import BlockingGenerateRoute
from lorry.blocking.session import BlockingSession
from lorry.chat import Messages
from lorry.client import AsyncClient
from lorry.config import read_config
from lorry.errors import ConfigError, HTTPStatusError
from lorry.generation import Generation
from lorry.health import NOT_THERE_YET, Health, not_ready
from lorry.options import ChatOptions, GenerateOptions, not_an_option, resolve
from lorry.request_body import chat_body, completion_body
from lorry.retry import RetryPolicy, as_retry_policy
from lorry.timeout import Timeout
from lorry.types.models import ModelCard, ModelList

if TYPE_CHECKING:
    import ssl

    from lorry.blocking.stream import BlockingTokenStream

_ONCE = RetryPolicy(max_attempts=1)


class Client:
    """Blocking client of a lorry server, or of another that speaks OpenAI's dialect.

        with lorry.Client("http://127.0.0.1:8000") as client:
            print(client.generate("Hello", max_tokens=20, adapter="pirate").text)

    Options, results, errors and limits of time are those of `AsyncClient`. It may be used from many
    threads at once, and is cooperative under gevent's monkey patching: it has neither threads nor a
    loop of its own, only sockets. Proxies are not used. Settings that are not given are read from
    LORRY_BASE_URL, LORRY_API_KEY and LORRY_TIMEOUT.

    It is small on purpose: one server, a key that is a string, and none of `AsyncClient`'s `limit`,
    `transport`, `middleware` and `defaults`. As many calls are in flight as threads make. What it
    has not got is refused by name. Raises as `AsyncClient` does.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: Timeout | float | None = None,
        retry: RetryPolicy | int | None = None,
        headers: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **others: Never,
    ) -> None:
        _refuse(others)
        config = read_config(base_url=base_url, api_key=api_key, timeout=timeout, headers=headers)
        if config.make_key is not None:
            raise ConfigError("api_key is a function; the blocking client takes a string")
        if len(config.endpoints) > 1:
            raise ConfigError("base_url names several servers; the blocking client takes one")
        self._session = BlockingSession(
            config, retry=as_retry_policy(retry), ssl_context=ssl_context
        )
        self._completions = BlockingGenerateRoute(
            self._session, "/v1/completions", encode_body=completion_body, dialect=COMPLETIONS
        )
        self.chat = BlockingChat(self._session)
        self.models = BlockingModels(self._session)
        self.adapters = BlockingAdapters(self._session)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._session.config.base_url!r})"

    def close(self) -> None:
        """Close the idle connections; harmless when repeated."""
        self._session.close()

    def generate(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Return one completed generation; see `AsyncClient.generate`."""
        return self._completions.generate(prompt, options)

    def stream(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> BlockingTokenStream:
        """Return a stream of tokens, at once; see `BlockingTokenStream`."""
        return self._completions.stream(prompt, options)

    def health(self) -> Health:
        """Whether the server is ready; raises ConnectError if it is not there."""
        return self._health(self._session.config.timeout)

    def ready(self, *, timeout: float = 60.0) -> None:
        """Wait until the server is ready, also while it refuses connections because it starts.

        Raises DeadlineExceeded after `timeout` seconds, which says what stood in the way last.
        """
        ends_at = time.monotonic() + timeout
        problem = "it did not answer"
        pauses = pauses_s()
        while (remaining_s := ends_at - time.monotonic()) > 0:
            try:
                health = self._health(Timeout(total=remaining_s))
                if health.is_ready:
                    return
                problem = health.detail
            except NOT_THERE_YET as error:
                problem = str(error)
            time.sleep(max(0.0, min(next(pauses), ends_at - time.monotonic())))
        raise not_ready(self._session.config.base_url, timeout, problem)

    def _health(self, timeout: Timeout) -> Health:
        exchange = self._session.exchange(
            "GET", "/health", options=resolve({}, timeout=timeout), retry=_ONCE
        )
        try:
            exchange.open()
            exchange.read_all()
        except HTTPStatusError as error:
            return Health(False, error.status or 0, str(error))
        return Health(True, 200)


def _refuse(settings: Collection[str]) -> None:
    """Raises TypeError for the first of them."""
    for name in settings:
        if name in inspect.signature(AsyncClient).parameters:
            raise TypeError(f"{name!r} is a setting of AsyncClient; the blocking client has none")
        raise TypeError(not_an_option(name, inspect.signature(Client).parameters))


class BlockingChat:
    """`client.chat(messages)` and `client.chat.stream(messages)`, as `lorry.chat.Chat`."""

    def __init__(self, session: BlockingSession) -> None:
        self._route = BlockingGenerateRoute(
            session,
            "/v1/chat/completions",
            encode_body=chat_body,
            dialect=CHAT,
            known=ChatOptions,
        )

    def __call__(self, messages: Messages, **options: Unpack[ChatOptions]) -> Generation:
        """The assistant's next message."""
        return self._route.generate(messages, options)

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> BlockingTokenStream:
        """The assistant's next message, token by token."""
        return self._route.stream(messages, options)


class BlockingModels:
    """The base model and the adapters, as `/v1/models` has them."""

    def __init__(self, session: BlockingSession) -> None:
        self._session = session

    def list(self) -> list[ModelCard]:
        """One card each; an adapter's `parent` is the base model's id."""
        options = resolve({}, timeout=self._session.config.timeout)
        return self._session.fetch("GET", "/v1/models", ModelList, options=options).data
