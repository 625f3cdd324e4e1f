"""How both generating OpenAI routes answer a request: parsed, on its adapter, streamed or whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from lorry.types.chat import ChatRequest
from lorry.types.completions import CompletionRequest
from lorry_server.adapters.lease import AdapterLease, released_on_error
from lorry_server.http.adapter_choice import choose_adapter, wait_headers
from lorry_server.http.deadline import before_deadline
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.generation import Answer, collect_answers, start_generation
from lorry_server.http.json_response import json_response
from lorry_server.http.openai_call import OpenAICall
from lorry_server.http.parsing import Prepare, parse_body
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.http.sse import EventStreamResponse, EventWriter, openai_error_event

Wanted = TypeVar("Wanted", CompletionRequest, ChatRequest)
Taken = TypeVar("Taken", CompletionRequest, ChatRequest, contravariant=True)


class OpenCall(Protocol[Taken]):
    async def __call__(
        self, wanted: Taken, lease: AdapterLease | None, *, record: RequestRecord, serving: Serving
    ) -> OpenAICall: ...


class Events(Protocol[Taken]):
    def __call__(self, wanted: Taken, call: OpenAICall, *, serving: Serving) -> EventWriter: ...


class Whole(Protocol[Taken]):
    def __call__(
        self, wanted: Taken, call: OpenAICall, answers: list[Answer], *, serving: Serving
    ) -> Struct: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIRoute(Generic[Wanted]):
    """What is a route's own: its schema, what that leaves to check, and how it writes answers."""

    kind: type[Wanted]
    prepare: Prepare
    check: Callable[[Wanted], None]
    open_call: OpenCall[Wanted]
    events: Events[Wanted]
    whole: Whole[Wanted]

    async def answer(self, request: Request, *, serving: Serving) -> Response:
        """Answer `request`. A client that leaves ends the generation, whichever it waits for."""
        record = RequestRecord.of(request)
        async with before_deadline(record.deadline, metrics=serving.metrics):
            wanted = await parse_body(
                request,
                self.kind,
                timeout_s=serving.settings.body_timeout_s,
                prepare=self.prepare,
            )
            self.check(wanted)
            lease = await choose_adapter(
                wanted.model, wanted.adapter_id, receive=request.receive, serving=serving
            )
            with released_on_error(lease):
                call = await self.open_call(wanted, lease, record=record, serving=serving)
        with released_on_error(lease):
            headers = wait_headers(lease)
            events = self.events(wanted, call, serving=serving) if wanted.stream else None
            generation = start_generation(
                call.job, is_streamed=events is not None, record=record, serving=serving
            )
            if events is not None:
                return EventStreamResponse(
                    events,
                    generation=generation,
                    error_event=openai_error_event,
                    record=record,
                    settings=serving.settings,
                    headers=headers,
                )
            async with generation:
                answers = await unless_disconnected(request.receive, collect_answers(generation))
            return json_response(
                self.whole(wanted, call, answers, serving=serving), headers=headers
            )
