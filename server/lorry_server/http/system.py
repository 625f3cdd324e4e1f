"""Health, metrics, facts about the server, and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry._version import __version__
from lorry.types.errors import LoraxErrorBody
from lorry.types.lorax import Info, TokenizeRequest
from lorry_server.http.json_response import json_response
from lorry_server.http.parsing import parse_body
from lorry_server.http.prompts import check_text, off_loop
from lorry_server.http.serving import Serving
from lorry_server.metrics import CONTENT_TYPE

UNHEALTHY = LoraxErrorBody(error="unhealthy", error_type="healthcheck")


@dataclass(frozen=True, slots=True)
class SystemEndpoint:
    serving: Serving

    async def live(self, request: Request) -> Response:
        """Answer without asking the engine: a busy server is alive."""
        return json_response({"status": "live"})

    async def ready(self, request: Request) -> Response:
        status = self._status()
        return json_response({"status": status}, status=200 if status == "ready" else 503)

    async def health(self, request: Request) -> Response:
        """LoRAX's form of `ready`: no body, or its error body."""
        if self._status() == "ready":
            return Response(status_code=200)
        return json_response(UNHEALTHY, status=503)

    async def metrics(self, request: Request) -> Response:
        return Response(self.serving.metrics.render(), headers={"content-type": CONTENT_TYPE})

    async def info(self, request: Request) -> Response:
        engine, settings = self.serving.engine.info, self.serving.settings
        return json_response(
            Info(
                model_id=engine.model_id,
                model_sha=None,
                model_dtype=engine.dtype,
                model_device_type=engine.device,
                model_pipeline_tag="text-generation",
                max_concurrent_requests=engine.max_num_seqs + engine.max_queued_requests,
                max_best_of=settings.max_best_of,
                max_stop_sequences=settings.max_stop_sequences,
                max_input_length=engine.max_model_len - 1,
                max_total_tokens=engine.max_model_len,
                waiting_served_ratio=0.0,  # one rule for waiting and running: no ratio
                max_batch_total_tokens=engine.num_blocks * engine.block_size,
                max_waiting_tokens=0,
                validation_workers=1,
                eager_prefill=True,
                version=__version__,
                sha=None,
                docker_label=None,
                request_logger_url=None,
                quantization=engine.quantization,
            )
        )

    async def tokenize(self, request: Request) -> Response:
        wanted = await parse_body(
            request, TokenizeRequest, timeout_s=self.serving.settings.body_timeout_s
        )
        check_text(wanted.inputs, param="inputs", serving=self.serving)
        add_special_tokens = wanted.add_special_tokens is not False
        spans = await off_loop(
            lambda: self.serving.tokenizer.encode_spans(
                wanted.inputs, add_special_tokens=add_special_tokens
            ),
            num_chars=len(wanted.inputs),
        )
        return json_response(spans)

    def _status(self) -> str:
        """Say whether a new request would be answered, and if not, why."""
        stats = self.serving.engine.stats()
        if not stats.is_healthy:
            return "failed"
        if stats.is_draining:
            return "draining"
        if stats.seconds_since_progress > self.serving.settings.progress_timeout_s:
            return "stuck"
        return "ready"
