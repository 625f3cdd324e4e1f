"""`AsyncClient`: generations, streams and batches from one server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import EllipsisType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from lorry.assembly import COMPLETIONS
from lorry.chat import Chat
from lorry.config import KeySource, changed_config, read_config
from lorry.endpoints import EndpointLike
from lorry.errors import ClientError, ConfigError
from lorry.generate_route import GenerateRoute
from lorry.generation import Generation
from lorry.limits.fixed import LimitLike, as_limiter
from lorry.middleware import Middleware, checked_middleware
from lorry.options import GenerateOptions, default_options
from lorry.request_body import completion_body
from lorry.retry import RetryPolicy, as_retry_policy
from lorry.session import Session
from lorry.stats import ClientStats
from lorry.stream import TokenStream
from lorry.timeout import Timeout
from lorry.timing import Timing
from lorry.transports.select import TransportLike, as_transport

if TYPE_CHECKING:
    import ssl

    from openai import AsyncOpenAI

    from lorry.adapters import Adapters
    from lorry.batch.request import Items, Request
    from lorry.batch.run import BatchRun
    from lorry.batch.settings import BatchOptions, OnError
    from lorry.classify import Classify
    from lorry.embeddings import Embed
    from lorry.health import Health
    from lorry.models import Models
    from lorry.raw import RawClient
    from lorry.server_metrics import ServerMetrics


class AsyncClient:
    """Async client of a lorry server, or of another that speaks OpenAI's or LoRAX's dialect.

        async with lorry.AsyncClient("http://127.0.0.1:8000") as client:
            generation = await client.generate("Hello", max_tokens=20, adapter="pirate")
            print(generation.text, generation.timing.e2e)

    Making one does no I/O, imports no HTTP library and needs no event loop. It may be used in
    several loops, one after another or in several threads: each gets connections of its own.
    Leaving `async with`, or `aclose`, closes those of the running loop; a client that was not
    closed is closed with its loop.

    `base_url` may be a list of addresses or `Endpoint`s: generations then go to the server that
    has their adapter, or to the less busy ones, and away from those that fail. `retry` as a number
    is the most attempts in all. `middleware` are functions `async def m(request, call_next)` around
    every attempt, the first outermost.

    What is not given is read from LORRY_BASE_URL, LORRY_API_KEY and LORRY_TIMEOUT (seconds).
    `timeout` as a number is the total for a call, with everything that belongs to it. `transport`
    is an `httpx.AsyncClient`, `httpx2.AsyncClient` or `aiohttp.ClientSession`, used as it is
    configured and left open, or a `Transport`. Without one lorry makes connections of its own, under
    `ssl_context` if that is given; it uses no proxies.

    `api_key` may be an async function, which is asked for a key before each attempt. `limit` is how
    many calls may be in flight at once, or a `Limit`, `AdaptiveLimit` or `RateLimit`, or a list of
    them, all of which hold; without one, as many are as are made. `defaults` are options of every
    generation that does not give them itself. Raises ConfigError for a wrong address, key, header or
    timeout; else TypeError for an unknown default or the wrong kind of thing, ValueError for a
    number out of range.
    """

    def __init__(
        self,
        base_url: EndpointLike | Sequence[EndpointLike] | None = None,
        *,
        api_key: KeySource | None = None,
        timeout: Timeout | float | None = None,
        retry: RetryPolicy | int | None = None,
        limit: LimitLike | None = None,
        transport: TransportLike | None = None,
        middleware: Sequence[Middleware] = (),
        headers: Mapping[str, str] | None = None,
        defaults: GenerateOptions | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if transport is not None and ssl_context is not None:
            raise ConfigError("ssl_context is given beside a transport, which has one of its own")
        config = read_config(base_url=base_url, api_key=api_key, timeout=timeout, headers=headers)
        self._attach(
            Session(
                config,
                retry=as_retry_policy(retry),
                transport=None if transport is None else as_transport(transport),
                middleware=checked_middleware(middleware),
                limiter=as_limiter(limit),
                defaults=default_options(defaults or {}),
                ssl_context=ssl_context,
            )
        )

    def _attach(self, session: Session) -> None:
        """Take a session, and make what reaches the server through it."""
        self._session = session
        self._completions = GenerateRoute(
            session, "/v1/completions", encode_body=completion_body, dialect=COMPLETIONS
        )
        self.chat = Chat(session)

    async def __aenter__(self) -> Self:
        _ = self._session.transport  # import the HTTP library here rather than in the first call
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({', '.join([*map(repr, self.endpoints), *self._session.facts()])})"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses of the servers that calls go to."""
        return self._session.endpoints

    def at(self, url: str) -> Self:
        """A view of this client that speaks to one of its servers only, and shares all else.

        What asks for the state of a server or changes it (`adapters`, `models`, `health`) is refused
        by a client of several, with ConfigError, as is a `url` that is not among `endpoints`.
        """
        view = object.__new__(type(self))
        view._attach(self._session.at(url))
        return view

    async def aclose(self) -> None:
        """Close the connections of the running loop; harmless when repeated."""
        await self._session.aclose()

    def with_options(
        self,
        *,
        retry: RetryPolicy | int | None = None,
        limit: LimitLike | EllipsisType | None = ...,
        headers: Mapping[str, str] | None = None,
        **defaults: Unpack[GenerateOptions],
    ) -> Self:
        """Return a view of this client: the same connections and counters, other settings.

            careful = client.with_options(timeout=5, adapter="pirate", max_tokens=20)

        What is not given stays as it is; `headers` and options are added to those of this client,
        and win over them. `timeout` holds for every call, options for generations. `limit=None`
        takes the limit away. Views cost next to nothing. Closing one closes the connections of all.
        Raises as the constructor does.
        """
        timeout = defaults.pop("timeout", None)
        options = default_options(defaults)
        session = self._session.view()
        session.config = changed_config(session.config, timeout=timeout, headers=headers)
        session.defaults = {**session.defaults, **options}
        if retry is not None:
            session.retry = as_retry_policy(retry)
        if limit is not ...:
            session.limiter = as_limiter(limit)
        view = object.__new__(type(self))
        view._attach(session)
        return view

    async def warmup(self, connections: int = 0) -> None:
        """Import the HTTP library and open so many connections to each server before the first call.

        Each asks the server for `/health`; any answer will do. A connection that nobody uses lasts
        some seconds. Raises ConnectError if the server is not there.
        """
        from lorry.warm_up import warm_up

        await warm_up(self._session, connections=connections)

    def stats(self) -> ClientStats:
        """What this client and its views have done so far, and are doing."""
        return self._session.stats()

    async def generate(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Return one completed generation for a text or for token ids.

        `GenerateOptions` lists the options: `max_tokens`, `adapter`, sampling, limits of time. Sends
        a single request that is not streamed, unless `token_times` or a limit on the first token or
        on silence needs the stream. Cancelling the task closes the connection before
        CancelledError leaves this call, so the server stops. Raises a subclass of ClientError.
        """
        return await self._completions.generate(prompt, options)

    def stream(
        self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]
    ) -> TokenStream:
        """Return a stream of tokens, at once; see `TokenStream` for when the request goes out."""
        return self._completions.stream(prompt, options)

    @overload
    def map(
        self,
        prompts: Items,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **options: Unpack[BatchOptions],
    ) -> BatchRun[Generation]: ...

    @overload
    def map(
        self, prompts: Items, *, on_error: Literal["return"], **options: Unpack[BatchOptions]
    ) -> BatchRun[Generation | ClientError]: ...

    def map(
        self, prompts: Items, *, on_error: OnError = "raise", **options: Unpack[BatchOptions]
    ) -> BatchRun[Any]:
        """Return a run of a generation for every prompt, to iterate over or to await.

        `prompts` is an iterable or asynchronous iterable, read as it is needed; items with options
        of their own and conversations are `Request`s. `BatchOptions` lists the options: how many at
        once, as a number or a limiter, order, schedule, progress, journal, and those of a
        generation. With `on_error="raise"` the first failure cancels the rest and is raised; with
        `"return"` it stands in the results at its place; with `"skip"` it is only in
        `BatchRun.errors`.
        """
        return self._batch(prompts, on_error, options)

    @overload
    async def generate_many(
        self,
        prompts: Items,
        *,
        on_error: Literal["raise", "skip"] = "raise",
        **options: Unpack[BatchOptions],
    ) -> list[Generation]: ...

    @overload
    async def generate_many(
        self, prompts: Items, *, on_error: Literal["return"], **options: Unpack[BatchOptions]
    ) -> list[Generation | ClientError]: ...

    async def generate_many(
        self, prompts: Items, *, on_error: OnError = "raise", **options: Unpack[BatchOptions]
    ) -> list[Any]:
        """Generate for every prompt and return a list: `await client.map(...)`."""
        return await self._batch(prompts, on_error, options)

    def _batch(
        self, prompts: Items, on_error: OnError, options: Mapping[str, Any]
    ) -> BatchRun[Any]:
        # only here, so that single calls need not wait for the import
        from lorry.batch.run import BatchRun
        from lorry.batch.settings import BatchSettings
        from lorry.batch.turns import BatchTurns

        settings = BatchSettings.read(options, on_error=on_error, defaults=self._session.defaults)
        if settings.limiter is None:
            return BatchRun(prompts, generate=self._generate_item, settings=settings)
        turns = BatchTurns(settings.limiter)
        view = self.with_options(limit=turns.before(self._session.limiter))
        return BatchRun(prompts, generate=view._generate_item, settings=settings, turns=turns)

    async def _generate_item(
        self, request: Request, options: Mapping[str, Any], /, *, intended_ns: int | None
    ) -> Generation:
        if request.messages is not None:
            route = self.chat.route
            return await route.generate(request.messages, options, intended_ns=intended_ns)
        assert request.prompt is not None
        return await self._completions.generate(request.prompt, options, intended_ns=intended_ns)

    def openai(self, **options: Any) -> AsyncOpenAI:
        """Return an `openai.AsyncOpenAI` whose requests are calls of this client.

        Its answers are `openai`'s; connections, retries, limits and errors are this client's: a
        refused connection is an `APIConnectionError`, and so is a stream that was cut. An adapter
        is chosen by `model`. `options` are its own arguments, but for those that are settled here.
        Closing it closes nothing. Raises ConfigError if the package is missing.
        """
        from lorry.openai import openai_client  # half a second, for those who want it

        return openai_client(self._session, options)

    def timing_of(self, answer: Any) -> Timing:
        """The timing of a call made through `openai()`, of which this is the answer or stream.

        An error of `openai` and a request id will do as well. The last thousand calls are known;
        raises LookupError for others, and for what does not name its call, as chunks do not.
        """
        from lorry.openai import timing_of

        return timing_of(self._session.call_log, answer)

    # what one program in ten needs is imported when it is asked for: single calls start sooner

    @cached_property
    def adapters(self) -> Adapters:
        """The server's adapters: `await client.adapters.list()`; see `lorry.adapters.Adapters`."""
        from lorry.adapters import Adapters

        return Adapters(self._session)

    @cached_property
    def models(self) -> Models:
        """The base model and the adapters: `await client.models.list()`."""
        from lorry.models import Models

        return Models(self._session)

    @cached_property
    def raw(self) -> RawClient:
        """Any request, bytes in and bytes out; see `lorry.raw.RawClient`."""
        from lorry.raw import RawClient

        return RawClient(self._session)

    @cached_property
    def embeddings(self) -> Embed:
        """`await client.embeddings(texts)`; see `lorry.embeddings.Embed`."""
        from lorry.embeddings import Embed

        return Embed(self._session)

    @cached_property
    def classify(self) -> Classify:
        """`await client.classify(texts)`; see `lorry.classify.Classify`."""
        from lorry.classify import Classify

        return Classify(self._session)

    async def tokenize(self, text: str) -> list[int]:
        """The token ids that the server makes of a text, with those that it puts in front."""
        from lorry.tokenizing import tokenize

        return await tokenize(self._session, text)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, on servers that have vLLM's route for it."""
        from lorry.tokenizing import detokenize

        return await detokenize(self._session, token_ids)

    async def metrics(self) -> ServerMetrics:
        """The server's own figures: `(await client.metrics())["vllm:num_requests_running"].total`."""
        from lorry.server_metrics import fetch_metrics

        return await fetch_metrics(self._session)

    async def health(self) -> Health:
        """Whether the server is ready; raises ConnectError if it is not there.

        Of a client with several servers, `client.at(url).health()` asks one.
        """
        from lorry.health import check_health

        return await check_health(self._session)

    # `timeout` is what callers of every client expect this to be called
    async def ready(self, *, timeout: float = 60.0) -> None:  # noqa: ASYNC109
        """Wait until the server is ready, or all of them are; DeadlineExceeded after `timeout` s."""
        from lorry.health import wait_until_ready

        await wait_until_ready(self._session, timeout_s=timeout)
