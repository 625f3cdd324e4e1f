"""Settings: where they come from and how wrong ones are named."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import pytest

import lorry
from lorry.config import DEFAULT_BASE_URL, ClientConfig, read_config


def config(
    *,
    base_url: str | Sequence[str | lorry.Endpoint] | None = None,
    api_key: str | None = None,
    timeout: lorry.Timeout | float | None = None,
) -> ClientConfig:
    return read_config(base_url=base_url, api_key=api_key, timeout=timeout, headers=None)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LORRY_BASE_URL", "LORRY_API_KEY", "LORRY_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_hold_without_arguments_and_variables() -> None:
    assert config().base_url == DEFAULT_BASE_URL
    assert config().api_key is None
    assert config().timeout == lorry.Timeout()


def test_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_BASE_URL", "http://h:1/")
    monkeypatch.setenv("LORRY_API_KEY", "k")
    monkeypatch.setenv("LORRY_TIMEOUT", "2.5")

    assert config().base_url == "http://h:1"
    assert config().headers["authorization"] == "Bearer k"
    assert config().timeout.total == 2.5
    assert config().timeout.connect == lorry.Timeout().connect


def test_arguments_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_BASE_URL", "http://h:1")
    monkeypatch.setenv("LORRY_TIMEOUT", "2.5")

    assert config(base_url="http://other").base_url == "http://other"
    assert config(timeout=lorry.Timeout(total=None)).timeout.total is None


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_openai_style_addresses_are_the_same_server(url: str) -> None:
    assert config(base_url=url).base_url == "http://h:1"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://h", "http://", "http://h?a=1"])
def test_wrong_address_is_named(url: str) -> None:
    with pytest.raises(lorry.ConfigError, match="base_url is"):
        config(base_url=url)


def test_password_in_the_address_is_refused_and_not_shown() -> None:
    with pytest.raises(lorry.ConfigError) as caught:
        config(base_url="http://me:hunter2@h")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "-1", "0", "nan"])
def test_wrong_variable_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_TIMEOUT", value)

    with pytest.raises(lorry.ConfigError, match="LORRY_TIMEOUT"):
        config()


def test_wrong_timeout_argument_is_named() -> None:
    with pytest.raises(lorry.ConfigError, match="timeout is wrong"):
        config(timeout=-3)


def test_key_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    with pytest.raises(lorry.ConfigError) as caught:
        config(api_key="abc\r\nx: y")

    assert "abc" not in str(caught.value)


def test_repr_shows_the_address_and_no_key() -> None:
    client = lorry.AsyncClient("http://h:1", api_key="sk-secret", headers={"x": "also-secret"})

    assert repr(client) == "AsyncClient('http://h:1')"
    assert "secret" not in repr(config(api_key="sk-secret"))


def test_several_addresses_and_their_weights_are_kept() -> None:
    given = ["http://a:1/v1", lorry.Endpoint("http://b:1/", weight=2.0)]

    endpoints = config(base_url=given).endpoints

    assert endpoints == (lorry.Endpoint("http://a:1"), lorry.Endpoint("http://b:1", weight=2.0))
    assert repr(lorry.AsyncClient(given)) == "AsyncClient('http://a:1', 'http://b:1')"


def test_the_variable_may_hold_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_BASE_URL", "http://a:1, http://b:1")

    assert [endpoint.url for endpoint in config().endpoints] == ["http://a:1", "http://b:1"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([], "empty list"),
        (["http://a", "http://a/v1"], "more than once"),
        (["http://a", "b"], "base_url is 'b'"),
        (["http://a:99999"], "base_url is"),
        ([7], "holds a int"),
    ],
)
def test_wrong_list_of_addresses_is_named(given: Any, problem: str) -> None:
    with pytest.raises(lorry.ConfigError, match=problem):
        config(base_url=given)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_wrong_weight_is_named(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        lorry.Endpoint("http://a", weight=weight)


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "sk-secret\n"},
        {"x y": "v"},
        {"": "v"},
        {"x": 7},
        {"Content-Length": "5"},
        {"transfer-encoding": "chunked"},
    ],
)
async def test_headers_that_cannot_be_sent_are_refused_and_not_shown(headers: Any) -> None:
    client = lorry.AsyncClient("http://h:1")
    for refuse in (
        lambda: lorry.AsyncClient("http://h:1", headers=headers),
        lambda: lorry.Client("http://h:1", headers=headers),
        lambda: client.with_options(headers=headers),
        lambda: client.raw.stream("GET", "/x", headers=headers),
    ):
        with pytest.raises(lorry.ConfigError, match="header") as caught:
            refuse()
        assert "secret" not in "".join(traceback.format_exception(caught.value))
