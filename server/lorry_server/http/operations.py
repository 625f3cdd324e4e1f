"""Every route with the types that it takes and gives: what the router and the document share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.adapters import (
    AdapterCard,
    AdapterList,
    DeletedAdapter,
    LoadLoraAdapter,
    PutAdapter,
    UnloadLoraAdapter,
)
from lorry.types.chat import ChatCompletion, ChatCompletionChunk, ChatRequest
from lorry.types.completions import Completion, CompletionRequest
from lorry.types.lorax import (
    GenerateRequest,
    GenerateResponse,
    Info,
    StreamEvent,
    TokenizeRequest,
    TokenSpan,
)
from lorry.types.models import ModelCard, ModelList
from lorry.types.steps import StepList
from lorry_server.http.adapters import AdaptersEndpoint
from lorry_server.http.lorax import GenerateEndpoint
from lorry_server.http.openai_chat import ChatEndpoint
from lorry_server.http.openai_completions import CompletionsEndpoint
from lorry_server.http.openai_models import ModelsEndpoint
from lorry_server.http.query_number import QueryNumber
from lorry_server.http.refused import RefusedEndpoint
from lorry_server.http.serving import Serving
from lorry_server.http.steps import LIMIT, SINCE, StepsEndpoint
from lorry_server.http.system import SystemEndpoint
from lorry_server.http.vllm_adapters import VllmAdaptersEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `events` is the type of a stream's events, if it can stream."""

    method: str
    path: str
    summary: str
    endpoint: Callable[[Request], Awaitable[Response]]
    body: Any = None
    answer: Any = None
    events: Any = None
    is_admin: bool = False  # changes what is served
    is_generation: bool = False  # keeps to deadlines and idempotency keys
    query: tuple[QueryNumber, ...] = ()
    is_refusal: bool = False  # is there to say by name what this server does not do

    @property
    def path_parameters(self) -> list[str]:
        return [part[1:-1].partition(":")[0] for part in self.path.split("/") if part[:1] == "{"]


def all_operations(serving: Serving) -> list[Operation]:
    return [
        *openai_operations(serving),
        *adapter_operations(serving),
        *lorax_operations(serving),
        *system_operations(serving),
        *refused_operations(),
    ]


def openai_operations(serving: Serving) -> list[Operation]:
    completions, chat, models = (
        CompletionsEndpoint(serving),
        ChatEndpoint(serving),
        ModelsEndpoint(serving),
    )
    return [
        Operation(
            method="POST",
            path="/v1/completions",
            summary="Continue one or several prompts.",
            endpoint=completions.create,
            is_generation=True,
            body=CompletionRequest,
            answer=Completion,
            events=Completion,
        ),
        Operation(
            method="POST",
            path="/v1/chat/completions",
            summary="Answer a conversation.",
            endpoint=chat.create,
            is_generation=True,
            body=ChatRequest,
            answer=ChatCompletion,
            events=ChatCompletionChunk,
        ),
        Operation(
            method="GET",
            path="/v1/models",
            summary="List the base model and the adapters.",
            endpoint=models.list,
            answer=ModelList,
        ),
        Operation(
            method="GET",
            path="/v1/models/{model:path}",
            summary="Show the base model or one adapter.",
            endpoint=models.retrieve,
            answer=ModelCard,
        ),
    ]


def adapter_operations(serving: Serving) -> list[Operation]:
    adapters, vllm = AdaptersEndpoint(serving), VllmAdaptersEndpoint(serving)
    return [
        Operation(
            method="GET",
            path="/v1/adapters",
            summary="List the adapters and where they are.",
            endpoint=adapters.list,
            answer=AdapterList,
        ),
        Operation(
            method="GET",
            path="/v1/adapters/{name:path}",
            summary="Show one adapter, or with `name@digest` a version of it.",
            endpoint=adapters.retrieve,
            answer=AdapterCard,
        ),
        Operation(
            method="PUT",
            path="/v1/adapters/{name:path}",
            summary="Load an adapter, in place of what has the name.",
            endpoint=adapters.put,
            body=PutAdapter,
            answer=AdapterCard,
            is_admin=True,
        ),
        Operation(
            method="DELETE",
            path="/v1/adapters/{name:path}",
            summary="Unload an adapter; running requests finish.",
            endpoint=adapters.delete,
            answer=DeletedAdapter,
            is_admin=True,
        ),
        Operation(
            method="POST",
            path="/v1/load_lora_adapter",
            summary="As vLLM: load an adapter; answers with plain text.",
            endpoint=vllm.load,
            body=LoadLoraAdapter,
            is_admin=True,
        ),
        Operation(
            method="POST",
            path="/v1/unload_lora_adapter",
            summary="As vLLM: unload an adapter; answers with plain text.",
            endpoint=vllm.unload,
            body=UnloadLoraAdapter,
            is_admin=True,
        ),
    ]


def lorax_operations(serving: Serving) -> list[Operation]:
    lorax, system = GenerateEndpoint(serving), SystemEndpoint(serving)
    return [
        Operation(
            method="POST",
            path="/",
            summary="Generate: a list of one answer, or a stream if `stream` is true.",
            endpoint=lorax.compatible,
            is_generation=True,
            body=GenerateRequest,
            answer=list[GenerateResponse],
            events=StreamEvent,
        ),
        Operation(
            method="POST",
            path="/invocations",
            summary="As POST /, under the name that SageMaker calls.",
            endpoint=lorax.compatible,
            is_generation=True,
            body=GenerateRequest,
            answer=list[GenerateResponse],
            events=StreamEvent,
        ),
        Operation(
            method="POST",
            path="/generate",
            summary="Generate one answer.",
            endpoint=lorax.generate,
            is_generation=True,
            body=GenerateRequest,
            answer=GenerateResponse,
        ),
        Operation(
            method="POST",
            path="/generate_stream",
            summary="Generate a stream of tokens.",
            endpoint=lorax.generate_stream,
            is_generation=True,
            body=GenerateRequest,
            events=StreamEvent,
        ),
        Operation(
            method="POST",
            path="/tokenize",
            summary="Show the tokens of a text.",
            endpoint=system.tokenize,
            body=TokenizeRequest,
            answer=list[TokenSpan],
        ),
        Operation(
            method="GET",
            path="/info",
            summary="Facts and limits of this server.",
            endpoint=system.info,
            answer=Info,
        ),
    ]


def system_operations(serving: Serving) -> list[Operation]:
    system = SystemEndpoint(serving)
    return [
        Operation(
            method="GET",
            path="/health/live",
            summary="Whether the process answers; needs no key.",
            endpoint=system.live,
        ),
        Operation(
            method="GET",
            path="/health/ready",
            summary="Whether a new request would be taken; needs no key.",
            endpoint=system.ready,
        ),
        Operation(
            method="GET", path="/health", summary="As /health/ready.", endpoint=system.health
        ),
        Operation(method="GET", path="/", summary="As /health.", endpoint=system.health),
        Operation(method="GET", path="/ping", summary="As /health.", endpoint=system.health),
        Operation(method="GET", path="/startup", summary="As /health.", endpoint=system.health),
        Operation(
            method="GET",
            path="/v1/steps",
            summary="Show the engine's last steps.",
            endpoint=StepsEndpoint(serving).list,
            answer=StepList,
            query=(SINCE, LIMIT),
        ),
        Operation(
            method="GET",
            path="/metrics",
            summary="Prometheus metrics under vLLM's names.",
            endpoint=system.metrics,
        ),
    ]


def refused_operations() -> list[Operation]:
    routes = {
        "/v1/embeddings": "make embeddings",
        "/embed": "make embeddings",
        "/classify": "classify text",
        "/classify_batch": "classify text",
    }
    return [
        Operation(
            method="POST",
            path=path,
            summary="Refused: this server generates text.",
            endpoint=RefusedEndpoint(what).refuse,
            is_refusal=True,
        )
        for path, what in routes.items()
    ]
