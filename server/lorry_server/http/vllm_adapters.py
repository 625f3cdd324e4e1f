"""vLLM's two routes for adapters, with its texts and its errors, as its clients match on them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.adapters import LoadLoraAdapter, UnloadLoraAdapter
from lorry.types.errors import ErrorBody, ErrorDetail
from lorry_server.errors import (
    AdapterExistsError,
    AdapterLoadError,
    NotFoundError,
    RequestError,
)
from lorry_server.http.adapter_choice import is_base_model
from lorry_server.http.adapters import check_source
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.json_response import json_response
from lorry_server.http.parsing import parse_body
from lorry_server.http.serving import Serving

INVALID_INPUT = "InvalidUserInput"


@dataclass(frozen=True, slots=True)
class VllmAdaptersEndpoint:
    """Answers are plain text, errors `{"error": {...}}` with the status as a number in `code`."""

    serving: Serving

    async def load(self, request: Request) -> Response:
        wanted = await parse_body(
            request, LoadLoraAdapter, timeout_s=self.serving.settings.body_timeout_s
        )
        if wanted.is_3d_lora_weight:
            raise unsupported("is_3d_lora_weight")
        name, path = wanted.lora_name, wanted.lora_path
        if not name or not path:
            return refusal("Both 'lora_name' and 'lora_path' must be provided.", INVALID_INPUT)
        if is_base_model(name, serving=self.serving):
            return refusal(
                f"The lora adapter name '{name}' conflicts with a served base model.",
                INVALID_INPUT,
            )
        check_source(path, param="lora_path")
        try:
            await unless_disconnected(
                request.receive,
                self.serving.library.load(name, path, replace=wanted.load_inplace),
            )
        except AdapterExistsError:
            return refusal(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True.",
                INVALID_INPUT,
            )
        except AdapterLoadError as exc:
            if exc.is_missing:
                return refusal(
                    f"Loading lora {name} failed: No adapter found for {path}",
                    "NotFoundError",
                    status=404,
                )
            return refusal(str(exc), "BadRequestError")
        return Response(
            f"Success: LoRA adapter '{name}' added successfully.", media_type="text/plain"
        )

    async def unload(self, request: Request) -> Response:
        wanted = await parse_body(
            request, UnloadLoraAdapter, timeout_s=self.serving.settings.body_timeout_s
        )
        if wanted.lora_int_id is not None:
            raise unsupported("lora_int_id")
        name = wanted.lora_name
        if not name:
            return refusal(
                "'lora_name' needs to be provided to unload a LoRA adapter.", INVALID_INPUT
            )
        try:
            self.serving.library.unload(name)
        except NotFoundError:
            return refusal(
                f"The lora adapter '{name}' cannot be found.", "NotFoundError", status=404
            )
        return Response(
            f"Success: LoRA adapter '{name}' removed successfully.", media_type="text/plain"
        )


def refusal(message: str, kind: str, *, status: int = 400) -> Response:
    return json_response(
        ErrorBody(ErrorDetail(message=message, type=kind, code=status)), status=status
    )


def unsupported(name: str) -> RequestError:
    return RequestError(
        f"`{name}` is not supported by this server", param=name, code="unsupported_parameter"
    )
