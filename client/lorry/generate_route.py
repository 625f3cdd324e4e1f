"""A route that generates: one call of it, whole or streamed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from lorry.assembly import Dialect, GenerationBuilder
from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.options import CallOptions, resolve
from lorry.session import Session
from lorry.stream import TokenStream

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
    ) -> None:
        self._session = session
        self._path = path
        self._encode_body = encode_body
        self._dialect = dialect

    async def generate(
        self, prompt: _Prompt, options: Mapping[str, Any], *, intended_ns: int | None = None
    ) -> Generation:
        """One generation; streams underneath if the options need it.

        `intended_ns` is when it should have been sent, if a schedule said so.
        """
        resolved = resolve(options, timeout=self._session.config.timeout)
        if resolved.token_times or resolved.timeout.needs_stream:
            return await self._stream(prompt, resolved, intended_ns=intended_ns).final()
        exchange = self._session.exchange(
            "POST",
            self._path,
            options=resolved,
            body=self._encode_body(prompt, resolved, stream=False),
        )
        if intended_ns is not None:
            exchange.stopwatch.intended_ns = intended_ns
        await exchange.open()
        body = await exchange.read_all()
        builder = GenerationBuilder(self._dialect)
        try:
            builder.add_answer(body, t_ns=time.perf_counter_ns())
        except ClientError as error:
            exchange.describe(error)
            raise
        return builder.build(
            exchange.stopwatch.snapshot(num_tokens=builder.usage.completion_tokens),
            options=resolved,
            endpoint=exchange.call.base_url,
            keeps_tokens="logprobs" in resolved.sampling,
        )

    def stream(self, prompt: _Prompt, options: Mapping[str, Any]) -> TokenStream:
        """A stream whose request has not been sent."""
        return self._stream(prompt, resolve(options, timeout=self._session.config.timeout))

    def _stream(
        self, prompt: _Prompt, options: CallOptions, *, intended_ns: int | None = None
    ) -> TokenStream:
        exchange = self._session.exchange(
            "POST",
            self._path,
            options=options,
            body=self._encode_body(prompt, options, stream=True),
            accept="text/event-stream",
        )
        if intended_ns is not None:
            exchange.stopwatch.intended_ns = intended_ns
        return TokenStream(exchange, builder=GenerationBuilder(self._dialect), options=options)
