"""A route that generates, for blocking code: one call of it, whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lorry.assembly import Dialect, GenerationBuilder
from lorry.blocking.session import BlockingSession
from lorry.errors import ClientError
from lorry.generate_route import BodyEncoder
from lorry.generation import Generation
from lorry.options import CallOptions, GenerateOptions, resolve
from lorry.whole_answer import whole_generation

if TYPE_CHECKING:
    from lorry.blocking.stream import BlockingTokenStream

_Prompt = TypeVar("_Prompt", contravariant=True)


class BlockingGenerateRoute(Generic[_Prompt]):
    """`/v1/completions` and `/v1/chat/completions` differ in body and dialect only."""

    def __init__(
        self,
        session: BlockingSession,
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

    def generate(self, prompt: _Prompt, options: Mapping[str, Any]) -> Generation:
        """One generation; streams underneath if the options need it."""
        resolved = self._resolve(options)
        if resolved.token_times or resolved.timeout.needs_stream:
            with self._stream(prompt, resolved) as stream:
                return stream.final()
        exchange = self._session.exchange(
            "POST",
            self._path,
            options=resolved,
            body=self._encode_body(prompt, resolved, stream=False),
        )
        exchange.open()
        body = exchange.read_all()
        endpoint = exchange.call.base_url
        try:
            return whole_generation(
                body, self._dialect, exchange.stopwatch, options=resolved, endpoint=endpoint
            )
        except ClientError as error:
            exchange.describe(error)
            raise

    def stream(self, prompt: _Prompt, options: Mapping[str, Any]) -> BlockingTokenStream:
        """A stream whose request has not been sent."""
        return self._stream(prompt, self._resolve(options))

    def _resolve(self, options: Mapping[str, Any]) -> CallOptions:
        return resolve(options, timeout=self._session.config.timeout, known=self._known)

    def _stream(self, prompt: _Prompt, options: CallOptions) -> BlockingTokenStream:
        from lorry.blocking.stream import BlockingTokenStream

        exchange = self._session.exchange(
            "POST",
            self._path,
            options=options,
            body=self._encode_body(prompt, options, stream=True),
            accept="text/event-stream",
        )
        return BlockingTokenStream(
            exchange, builder=GenerationBuilder(self._dialect), options=options
        )
