"""`create_app`: every route, middleware and error handler of the server, as values."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.engine.client import EngineClient
from lorry_server.errors import LorryServerError
from lorry_server.http.answer_memory import AnswerMemory
from lorry_server.http.errors import error_response, handle_error, route_error
from lorry_server.http.generation_route import GenerationRoute
from lorry_server.http.idempotency import SharedAnswers
from lorry_server.http.keys import Endpoint, for_admins
from lorry_server.http.middleware import (
    ApiKeyMiddleware,
    BodyLimitMiddleware,
    RequestLogMiddleware,
)
from lorry_server.http.openapi import DocumentEndpoint
from lorry_server.http.operations import Operation, all_operations
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from lorry_server.text.chat_template import ChatTemplate
from lorry_server.text.tokenizer import Tokenizer

# What proxies log for a client that left; the client itself never sees it.
CLIENT_CLOSED_REQUEST = 499


def create_app(
    engine: EngineClient,
    *,
    library: AdapterLibrary,
    tokenizer: Tokenizer,
    chat_template: ChatTemplate | None,
    settings: HttpSettings,
    metrics: Metrics,
) -> Starlette:
    """Return the ASGI application. It starts and stops nothing: the engine is its builder's.

    Serve it with uvicorn's h11 parser, whose limits on headers are tested.
    """
    serving = Serving(
        engine=engine,
        library=library,
        tokenizer=tokenizer,
        chat_template=chat_template,
        settings=settings,
        metrics=metrics,
    )
    operations = all_operations(serving)
    shared = SharedAnswers(
        AnswerMemory(), metrics=metrics, stall_timeout_s=settings.stall_timeout_s
    )
    app = Starlette(
        routes=[
            *(
                Route(o.path, endpoint_of(o, shared, serving=serving), methods=[o.method])
                for o in operations
            ),
            Route("/openapi.json", DocumentEndpoint(operations).get, methods=["GET"]),
        ],
        middleware=middleware(settings),
        exception_handlers={
            LorryServerError: handle_error,
            HTTPException: handle_route_error,
            ClientDisconnect: handle_disconnect,
        },
    )
    # A redirect would name whatever host the client claims, and hide a mistake in a path.
    app.router.redirect_slashes = False
    return app


def endpoint_of(
    operation: Operation, shared: SharedAnswers, *, serving: Serving
) -> Endpoint | GenerationRoute:
    settings = serving.settings
    if operation.is_generation:
        return GenerationRoute(operation.endpoint, serving=serving, shared=shared)
    if not operation.is_admin or not settings.admin_keys:
        return operation.endpoint
    return for_admins(
        operation.endpoint, admin_keys=settings.admin_keys, api_keys=settings.api_keys
    )


def middleware(settings: HttpSettings) -> list[Middleware]:
    layers = [Middleware(RequestLogMiddleware)]
    if settings.api_keys:
        keys = (*settings.api_keys, *settings.admin_keys)
        layers.append(Middleware(ApiKeyMiddleware, api_keys=keys))
    layers.append(
        Middleware(
            BodyLimitMiddleware,
            max_body_bytes=settings.max_body_bytes,
            max_headers=settings.max_headers,
        )
    )
    return layers


async def handle_route_error(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    path = request.scope["path"]
    allow = ", ".join(methods_of(request)) if exc.status_code == 405 else None
    return error_response(route_error(exc.status_code, path, allow=allow), path)


def methods_of(request: Request) -> list[str]:
    """Every method that the request's path answers; the router knows of the first route alone."""
    return sorted(
        {
            method
            for route in request.app.routes
            if route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods
        }
    )


async def handle_disconnect(request: Request, exc: Exception) -> Response:
    RequestRecord.of(request).is_abandoned = True
    return Response(status_code=CLIENT_CLOSED_REQUEST)
