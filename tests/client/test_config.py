"""Settings: where they come from and how wrong ones are named."""

from __future__ import annotations

import pytest

import lorry
from lorry.config import DEFAULT_BASE_URL, ClientConfig, read_config


def config(
    *,
    base_url: str | None = None,
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
