"""How both generating OpenAI routes answer a checked call: as a stream, or whole."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from lorry_server.http.adapter_choice import wait_headers
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.generation import Answer, collect_answers, start_generation
from lorry_server.http.json_response import json_response
from lorry_server.http.openai_call import OpenAICall
from lorry_server.http.serving import Serving
from lorry_server.http.sse import EventStreamResponse, EventWriter, openai_error_event


async def answer_call(
    request: Request,
    call: OpenAICall,
    *,
    events: EventWriter | None,
    whole: Callable[[list[Answer]], Struct],
    serving: Serving,
) -> Response:
    """Start the call's generation and answer with its `events`, or whole if there are none.

    A client that leaves ends the generation, whichever it waits for.
    """
    headers = wait_headers(call.job.lease)
    generation = start_generation(
        call.job, is_streamed=events is not None, record=call.record, serving=serving
    )
    if events is not None:
        return EventStreamResponse(
            events,
            generation=generation,
            error_event=openai_error_event,
            record=call.record,
            settings=serving.settings,
            headers=headers,
        )
    async with generation:
        answers = await unless_disconnected(request.receive, collect_answers(generation))
    return json_response(whole(answers), headers=headers)
