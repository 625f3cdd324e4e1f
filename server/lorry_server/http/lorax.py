"""`POST /`, `/generate` and `/generate_stream`: LoRAX's native API, and with it TGI's.

Three things differ from LoRAX. Unknown fields are refused by name instead of being ignored.
`apply_chat_template: true` does what it says. Adapters come from where the operator allows it, so
`api_token` is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.lorax import GenerateRequest, GenerateResponse
from lorry_server.adapters.lease import released_on_error
from lorry_server.errors import RequestError
from lorry_server.http.deadline import before_deadline
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.generation import collect_answers, start_generation
from lorry_server.http.json_response import json_response
from lorry_server.http.lorax_answer import GenerateEvents, generate_response
from lorry_server.http.lorax_call import LoraxCall, open_call
from lorry_server.http.lorax_headers import answer_headers, start_headers
from lorry_server.http.parsing import parse_body
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.http.sse import EventStreamResponse, lorax_error_event


@dataclass(frozen=True, slots=True)
class GenerateEndpoint:
    serving: Serving

    async def compatible(self, request: Request) -> Response:
        """Stream if `stream` is true, else answer with a list of one."""
        wanted = await self._parse(request)
        if wanted.stream:
            return await self._stream(request, wanted)
        call = await self._open(request, wanted, is_streamed=False)
        answer = await self._answer(request, call)
        return json_response([answer], headers=answer_headers(call, serving=self.serving))

    async def generate(self, request: Request) -> Response:
        wanted = await self._parse(request)
        if wanted.stream:
            raise RequestError("`stream` is for POST /; use /generate_stream", param="stream")
        call = await self._open(request, wanted, is_streamed=False)
        answer = await self._answer(request, call)
        return json_response(answer, headers=answer_headers(call, serving=self.serving))

    async def generate_stream(self, request: Request) -> Response:
        return await self._stream(request, await self._parse(request))

    async def _parse(self, request: Request) -> GenerateRequest:
        async with before_deadline(
            RequestRecord.of(request).deadline, metrics=self.serving.metrics
        ):
            return await parse_body(
                request, GenerateRequest, timeout_s=self.serving.settings.body_timeout_s
            )

    async def _open(
        self, request: Request, wanted: GenerateRequest, *, is_streamed: bool
    ) -> LoraxCall:
        record = RequestRecord.of(request)
        async with before_deadline(record.deadline, metrics=self.serving.metrics):
            return await open_call(
                wanted,
                is_streamed=is_streamed,
                receive=request.receive,
                record=record,
                serving=self.serving,
            )

    async def _answer(self, request: Request, call: LoraxCall) -> GenerateResponse:
        with released_on_error(call.job.lease):
            generation = start_generation(
                call.job, is_streamed=False, record=call.record, serving=self.serving
            )
        async with generation:
            answers = await unless_disconnected(request.receive, collect_answers(generation))
        return generate_response(call, answers, tokenizer=self.serving.tokenizer)

    async def _stream(self, request: Request, wanted: GenerateRequest) -> Response:
        call = await self._open(request, wanted, is_streamed=True)
        with released_on_error(call.job.lease):
            generation = start_generation(
                call.job, is_streamed=True, record=call.record, serving=self.serving
            )
            return EventStreamResponse(
                GenerateEvents(call, tokenizer=self.serving.tokenizer),
                generation=generation,
                error_event=lorax_error_event,
                record=call.record,
                settings=self.serving.settings,
                headers=start_headers(call, serving=self.serving),
            )
