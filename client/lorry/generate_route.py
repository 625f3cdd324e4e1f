"""A route that generates: one call of it, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from lorry.assembly import Dialect, GenerationBuilder
from lorry.errors import ClientError
from lorry.exchange import Exchange
from lorry.generation import Generation
from lorry.options import CallOptions, GenerateOptions
from lorry.session import Session
from lorry.stream import TokenStream
from lorry.telemetry import observed

_Prompt = TypeVar("_Prompt", contravariant=True)


class BodyEncoder(Protocol[_Prompt]):
    """Makes the request's body of a prompt and the options."""

    def __call__(self, prompt: _Prompt, options: CallOptions, /, *, stream: bool) -> bytes: ...


class GenerateRoute(Generic[_Prompt]):
    """`/v1/completions` and `/v1/chat/completions` differ in body and dialect only."""

    def __init__(
        self,
        session: Session,
        path: str,
        *,
        encode_body: BodyEncoder[_Prompt],
        dialect: Dialect,
        known: type[GenerateOptions] = GenerateOptions,
    ) -> None:
        self._session = session
        self._path = path
        self._encode_body = encode_body
        self._dialect = dialect
        self._known = known

    def generate(
        self, prompt: _Prompt, options: Mapping[str, Any], *, intended_ns: int | None = None
    ) -> Coroutine[Any, Any, Generation]:
        """One generation, sent when it is awaited; streams underneath if the options need it.

        `intended_ns` is when it should have been sent, if a schedule said so.
        """
        resolved = self._session.resolve(options, known=self._known)
        if resolved.token_times or resolved.timeout.needs_stream:
            return self._stream(prompt, resolved, intended_ns=intended_ns).final()
        exchange = self._session.exchange(
            "POST",
            self._path,
            options=resolved,
            body=self._encode_body(prompt, resolved, stream=False),
            takes_turn=True,
            any_server=True,
        )
        if intended_ns is not None:
            exchange.stopwatch.intended_ns = intended_ns
        telemetry = self._session.telemetry
        if telemetry is None:
            return self._whole(exchange, resolved)
        observation = telemetry.begin(self._path, prompt, resolved, is_streamed=False)
        return observed(observation, self._whole(exchange, resolved))

    def stream(self, prompt: _Prompt, options: Mapping[str, Any]) -> TokenStream:
        """A stream whose request has not been sent."""
        return self._stream(prompt, self._session.resolve(options, known=self._known))

    async def _whole(self, exchange: Exchange, options: CallOptions) -> Generation:
        await exchange.open()
        body = await exchange.read_all()
        builder = GenerationBuilder(self._dialect)
        keeps_tokens = "logprobs" in options.sampling
        try:
            builder.add_answer(body, t_ns=time.perf_counter_ns(), keeps_tokens=keeps_tokens)
        except ClientError as error:
            exchange.describe(error)
            raise
        return builder.build(
            exchange.stopwatch,
            options=options,
            endpoint=exchange.endpoint,
            keeps_tokens=keeps_tokens,
        )

    def _stream(
        self, prompt: _Prompt, options: CallOptions, *, intended_ns: int | None = None
    ) -> TokenStream:
        exchange = self._session.exchange(
            "POST",
            self._path,
            options=options,
            body=self._encode_body(prompt, options, stream=True),
            accept="text/event-stream",
            takes_turn=True,
            any_server=True,
        )
        if intended_ns is not None:
            exchange.stopwatch.intended_ns = intended_ns
        telemetry = self._session.telemetry
        observe = None
        if telemetry is not None:
            observe = partial(telemetry.begin, self._path, prompt, options, is_streamed=True)
        return TokenStream(
            exchange, builder=GenerationBuilder(self._dialect), options=options, observe=observe
        )
