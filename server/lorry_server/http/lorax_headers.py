"""The `x-` headers that LoRAX puts on its answers, as far as they can be filled in truthfully."""

from __future__ import annotations

import time

from lorry_server.adapters.lease import AdapterLease
from lorry_server.http.adapter_choice import wait_headers
from lorry_server.http.lorax_call import LoraxCall
from lorry_server.http.serving import Serving

SOURCE_WORDS = {"hf://": "hub", "s3://": "s3"}


def start_headers(call: LoraxCall, *, serving: Serving) -> dict[str, str]:
    """What is known when a stream begins."""
    headers = {
        "x-compute-type": serving.engine.info.device,
        "x-compute-characters": str(len(call.wanted.inputs)),
        "x-prompt-tokens": str(len(call.prompt_token_ids)),
        "x-model-id": serving.engine.info.model_id,
    }
    if call.job.adapter is not None:
        headers |= {
            "x-adapter-id": call.job.adapter,
            "x-adapter-source": source_word(call.job.lease),
        }
    headers |= wait_headers(call.job.lease)
    return {name: header_value(value) for name, value in headers.items()}


def source_word(lease: AdapterLease | None) -> str:
    """LoRAX's word for where an adapter is from; it knows of four places."""
    source = "" if lease is None else lease.info.source
    return next((word for start, word in SOURCE_WORDS.items() if source.startswith(start)), "local")


def answer_headers(call: LoraxCall, *, serving: Serving) -> dict[str, str]:
    """What is known when an answer is complete. Times are whole milliseconds."""
    record, timings = call.record, call.record.timings
    num_generated = record.num_completion_tokens
    total_ms = (time.perf_counter() - record.arrival_s) * 1000
    headers = start_headers(call, serving=serving) | {
        "x-generated-tokens": str(num_generated),
        "x-skipped-tokens": "0",
        "x-total-tokens": str(len(call.prompt_token_ids) + num_generated),
        "x-total-time": milliseconds(total_ms),
    }
    if timings is not None:
        inference_ms = timings.prefill_ms + timings.decode_ms
        headers |= {
            "x-compute-time": f"{inference_ms / 1000:.6f}",  # this one is in seconds
            "x-validation-time": milliseconds(total_ms - timings.queue_ms - inference_ms),
            "x-queue-time": milliseconds(timings.queue_ms),
            "x-inference-time": milliseconds(inference_ms),
            "x-time-to-first-token": milliseconds(timings.queue_ms + timings.prefill_ms),
            "x-time-per-token": milliseconds(inference_ms / max(num_generated, 1)),
            "x-time-per-output-token": milliseconds(timings.decode_ms / max(num_generated - 1, 1)),
        }
    return headers


def milliseconds(duration_ms: float) -> str:
    return str(max(0, round(duration_ms)))


def header_value(text: str) -> str:
    """Names come from folders and flags; a header holds printable ASCII."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
