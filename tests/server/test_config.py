"""Settings from the command line, variables and a TOML file; every wrong value names itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.config import AdapterSpec, AdapterWeight, read_config
from lorry_server.errors import StartupError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LORRY_API_KEY", "LORRY_HOST", "LORRY_PORT", "LORRY_MODEL"):
        monkeypatch.delenv(name, raising=False)


def test_defaults_serve_the_default_model_on_loopback() -> None:
    config = read_config([])

    assert (config.host, config.port) == ("127.0.0.1", 8000)
    assert config.model is None
    assert (config.dtype, config.quantization) == ("auto", "auto")
    assert config.prefix_caching
    assert config.speculate == 0
    assert (config.scheduling, config.adapter_weights) == ("fair", ())


def test_adapters_are_names_and_where_they_come_from() -> None:
    config = read_config(
        [
            *("--adapter", "sql=/a/b", "--adapter", "team/x=rel=ative", "--adapter", "home=~/x"),
            *("--adapter", "law=s3://bucket/law/", "--adapter", "tax=hf://org/tax@v=1"),
        ]
    )

    assert config.adapters == (
        AdapterSpec("sql", "/a/b"),
        AdapterSpec("team/x", "rel=ative"),
        AdapterSpec("home", str(Path.home() / "x")),
        AdapterSpec("law", "s3://bucket/law"),
        AdapterSpec("tax", "hf://org/tax@v=1"),
    )


def test_weights_are_names_and_numbers() -> None:
    config = read_config(["--adapter-weight", "sql=3", "--adapter-weight", "org/model=0.5"])

    assert config.adapter_weights == (AdapterWeight("sql", 3.0), AdapterWeight("org/model", 0.5))


def test_a_weight_given_twice_is_refused() -> None:
    with pytest.raises(StartupError, match=r"sql=.* is given twice"):
        read_config(["--adapter-weight", "sql=3", "--adapter-weight", "sql=4"])


def test_weights_without_fairness_are_refused() -> None:
    with pytest.raises(StartupError, match="--scheduling fifo"):
        read_config(["--scheduling", "fifo", "--adapter-weight", "sql=3"])


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("1000", 1000), ("2GiB", 2 << 30), ("1.5MB", 1_500_000), ("512mib", 512 << 20), ("4k", 4000)],
)
def test_memory_is_read_with_its_unit(text: str, num_bytes: int) -> None:
    assert read_config(["--kv-cache-memory", text]).kv_cache_memory_bytes == num_bytes


def test_adapters_may_come_from_nowhere_unless_it_is_said() -> None:
    config = read_config([])

    assert (config.adapter_roots, config.adapter_sources) == ((), ())
    assert config.watched_folders == ()
    assert config.max_adapter_bytes == 2 << 30
    assert config.adapter_disk_cache_bytes == 10 << 30


def test_roots_and_sources_of_adapters_are_read_in_their_one_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_config(
        [
            *("--adapter-root", "adapters", "--adapter-root", "s3://bucket/adapters/"),
            *("--adapter-source", "hf://org/", "--adapter-source", "file:///data/"),
            *("--max-adapter-bytes", "100MB", "--adapter-disk-cache", "1GiB"),
            *("--watch", "adapters", "--watch", "/data/other"),
        ]
    )

    assert config.adapter_roots == (str(tmp_path / "adapters"), "s3://bucket/adapters")
    assert config.adapter_sources == ("hf://org", "file:///data")
    assert config.watched_folders == (tmp_path / "adapters", Path("/data/other"))
    assert (config.max_adapter_bytes, config.adapter_disk_cache_bytes) == (10**8, 1 << 30)


def test_a_variable_stands_in_for_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORRY_PORT", "9001")

    assert read_config([]).port == 9001
    assert read_config(["--port", "9002"]).port == 9002


def test_a_toml_file_is_read_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "lorry.toml"
    file.write_text('[serve]\nport = 9003\nquantization = "none"\nadapter = ["sql=/a", "law=/b"]\n')

    config = read_config(["--config", str(file), "--quantization", "int8"])

    assert config.port == 9003
    assert config.quantization == "int8"
    assert [spec.name for spec in config.adapters] == ["sql", "law"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "70000"], ["--port", "70000", "65535"]),
        (["--port", "http"], ["--port", "http"]),
        (["--dtype", "float8"], ["--dtype", "float8", "bfloat16"]),
        (["--quantization", "int3"], ["--quantization", "int3", "int8"]),
        (["--kv-cache-dtype", "int4"], ["--kv-cache-dtype", "int4", "int8"]),
        (["--adapter", "sql"], ["--adapter", "sql", "name=path"]),
        (["--adapter", "../x=/a"], ["--adapter", "../x", "not allowed"]),
        (["--adapter", "sql=S3://bucket/sql"], ["--adapter", "S3://bucket", "lower case"]),
        (["--adapter", "sql=s3://"], ["--adapter", "sql=s3://", "names no folder"]),
        (["--adapter", "sql=https://me:word@host/x"], ["--adapter", "no user or password"]),
        (["--adapter-root", "S3://bucket"], ["--adapter-root", "S3://bucket", "lower case"]),
        (["--adapter-source", "/data"], ["--adapter-source", "/data", "--adapter-root"]),
        (["--adapter-source", "https://"], ["--adapter-source", "name a host"]),
        (["--adapter-source", "s3://b/../c"], ["--adapter-source", "'..'"]),
        (["--max-adapter-bytes", "big"], ["--max-adapter-bytes", "big", "2GiB"]),
        (["--adapter-disk-cache", "big"], ["--adapter-disk-cache", "big", "2GiB"]),
        (["--kv-cache-memory", "lots"], ["--kv-cache-memory", "lots", "2GiB"]),
        (["--max-num-seqs", "0"], ["--max-num-seqs", "0"]),
        (["--block-size", "17"], ["--block-size", "17"]),
        (["--speculate", "17"], ["--speculate", "17", "between 0 and 16"]),
        (["--scheduling", "lifo"], ["--scheduling", "lifo", "fair", "fifo"]),
        (["--adapter-weight", "3"], ["--adapter-weight", "name=weight"]),
        (["--adapter-weight", "sql=heavy"], ["--adapter-weight", "sql=heavy", "0.01"]),
        (["--adapter-weight", "sql=0"], ["--adapter-weight", "sql=0", "0.01"]),
        (["--adapter-weight", "sql=nan"], ["--adapter-weight", "sql=nan", "0.01"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["--api-key", ""], ["--api-key", "empty"]),
        (["--admin-key", ""], ["--admin-key", "empty"]),
        (["--adapter-host-memory", "much"], ["--adapter-host-memory", "much", "2GiB"]),
        (["--adapter-load-workers", "0"], ["--adapter-load-workers", "0", "between 1"]),
        (["--adapter-load-timeout", "nan"], ["--adapter-load-timeout", "nan"]),
        (["--adapter-failure-memory", "-1"], ["--adapter-failure-memory", "-1"]),
    ],
)
def test_a_wrong_value_is_named_with_the_right_ones(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        read_config(argv)

    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words)


def test_what_is_said_about_loading_adapters_is_read() -> None:
    config = read_config(
        [
            *("--adapter-host-memory", "3GiB", "--adapter-load-workers", "2"),
            *("--adapter-load-timeout", "1.5", "--adapter-failure-memory", "0"),
            *("--admin-key", "a", "--admin-key", "b"),
        ]
    )

    assert config.adapter_host_memory_bytes == 3 << 30
    assert config.adapter_load_workers == 2
    assert (config.adapter_load_timeout_s, config.adapter_failure_memory_s) == (1.5, 0)
    assert config.admin_keys == ("a", "b")
    assert read_config([]).adapter_host_memory_bytes is None


def test_an_unknown_key_of_the_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lorry.toml"
    file.write_text("[serve]\nprot = 1\n")

    with pytest.raises(SystemExit):
        read_config(["--config", str(file)])

    assert "prot" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_an_open_address_without_a_key_needs_no_auth_said_out_loud(host: str) -> None:
    with pytest.raises(StartupError, match="--no-auth"):
        read_config(["--host", host])

    assert read_config(["--host", host, "--no-auth"]).no_auth
    assert read_config(["--host", host, "--api-key", "k"]).api_keys == ("k",)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert read_config(["--host", host]).api_keys == ()


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(StartupError, match=r"sql=.* is given twice"):
        read_config(["--adapter", "sql=/a", "--adapter", "sql=/b"])


def test_every_flag_is_documented_with_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_config(["--help"])

    text = capsys.readouterr().out
    for flag in ("model", "port", "adapter", "kv-cache-memory", "kv-cache-dtype", "quantization"):
        assert f"--{flag}" in text
        assert f"LORRY_{flag.upper().replace('-', '_')}" in text


def test_converted_models_are_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    assert read_config([]).cache_dir == Path("/big/lorry")

    monkeypatch.delenv("XDG_CACHE_HOME")
    assert read_config([]).cache_dir == Path.home() / ".cache" / "lorry"
