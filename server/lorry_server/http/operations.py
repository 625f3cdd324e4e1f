"""Every route with the types that it takes and gives: what the router and the document share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
from lorry_server.http.keys import Endpoint
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
    endpoint: Endpoint
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
    completions, chat = CompletionsEndpoint(serving), ChatEndpoint(serving)
    models = ModelsEndpoint(serving)
    return [
        generates(
            "/v1/completions",
            "Continue one or several prompts.",
            completions.create,
            body=CompletionRequest,
            answer=Completion,
            events=Completion,
        ),
        generates(
            "/v1/chat/completions",
            "Answer a conversation.",
            chat.create,
            body=ChatRequest,
            answer=ChatCompletion,
            events=ChatCompletionChunk,
        ),
        shows("/v1/models", "List the base model and the adapters.", models.list, ModelList),
        shows(
            "/v1/models/{model:path}",
            "Show the base model or one adapter.",
            models.retrieve,
            ModelCard,
        ),
    ]


def adapter_operations(serving: Serving) -> list[Operation]:
    adapters, vllm = AdaptersEndpoint(serving), VllmAdaptersEndpoint(serving)
    return [
        shows("/v1/adapters", "List the adapters and where they are.", adapters.list, AdapterList),
        shows(
            "/v1/adapters/{name:path}",
            "Show one adapter, or with `name@digest` a version of it.",
            adapters.retrieve,
            AdapterCard,
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
    compatible = {
        "/": "Generate: a list of one answer, or a stream if `stream` is true.",
        "/invocations": "As POST /, under the name that SageMaker calls.",
    }
    return [
        *(
            generates(
                path,
                summary,
                lorax.compatible,
                body=GenerateRequest,
                answer=list[GenerateResponse],
                events=StreamEvent,
            )
            for path, summary in compatible.items()
        ),
        generates(
            "/generate",
            "Generate one answer.",
            lorax.generate,
            body=GenerateRequest,
            answer=GenerateResponse,
        ),
        generates(
            "/generate_stream",
            "Generate a stream of tokens.",
            lorax.generate_stream,
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
        shows("/info", "Facts and limits of this server.", system.info, Info),
    ]


def system_operations(serving: Serving) -> list[Operation]:
    system, steps = SystemEndpoint(serving), StepsEndpoint(serving)
    return [
        shows("/health/live", "Whether the process answers; needs no key.", system.live),
        shows("/health/ready", "Whether a new request would be taken; needs no key.", system.ready),
        shows("/health", "As /health/ready.", system.health),
        *(shows(path, "As /health.", system.health) for path in ("/", "/ping", "/startup")),
        shows(
            "/v1/steps",
            "Show the engine's last steps.",
            steps.list,
            StepList,
            query=(SINCE, LIMIT),
        ),
        shows("/metrics", "Prometheus metrics under vLLM's names.", system.metrics),
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


def generates(
    path: str,
    summary: str,
    endpoint: Endpoint,
    *,
    body: Any,
    answer: Any = None,
    events: Any = None,
) -> Operation:
    """One that generates, and so keeps to deadlines and idempotency keys."""
    return Operation(
        method="POST",
        path=path,
        summary=summary,
        endpoint=endpoint,
        body=body,
        answer=answer,
        events=events,
        is_generation=True,
    )


def shows(
    path: str,
    summary: str,
    endpoint: Endpoint,
    answer: Any = None,
    *,
    query: tuple[QueryNumber, ...] = (),
) -> Operation:
    """One that only looks."""
    return Operation(
        method="GET", path=path, summary=summary, endpoint=endpoint, answer=answer, query=query
    )
