"""What may be said about a request that generates nothing: the keyword arguments of such methods.

The names mean what they mean in `lorry.options.GenerateOptions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from lorry.timeout import Timeout


class RequestOptions(TypedDict, total=False):
    """All are optional, and None is as good as absent."""

    adapter: str | None  # None and "" mean the base model
    adapter_id: str | None  # the same by its LoRAX name; giving both is a TypeError
    deadline: float | None  # seconds for everything; the smaller of it and the timeout's total
    timeout: Timeout | float | None  # instead of the client's; a number is the total
    request_id: str | None  # made by the client when absent; sent to the server


class TextsOptions(RequestOptions, total=False):
    """Of a request about a list of texts."""

    extra_body: Mapping[str, Any] | None  # put into the body last; a None removes the field


class EmbedOptions(TextsOptions, total=False):
    """Of a request for embeddings."""

    dimensions: int | None  # shortens the vectors, on models that can
