"""Settings that make no sense are named."""

from __future__ import annotations

import pytest

from lorry_server.http.settings import HttpSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("served_model_name", ""),
        ("api_keys", ("",)),
        ("max_body_bytes", 0),
        ("max_headers", 0),
        ("max_best_of", 0),
        ("max_stop_sequences", 0),
        ("body_timeout_s", 0.0),
        ("keep_alive_s", -1.0),
        ("stall_timeout_s", float("nan")),
        ("progress_timeout_s", 0.0),
        ("max_completion_tokens_per_request", 1),
    ],
)
def test_bad_setting_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        HttpSettings(**({"served_model_name": "tiny"} | {name: value}))
