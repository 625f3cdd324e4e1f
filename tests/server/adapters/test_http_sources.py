"""Adapters over HTTP from a server with faults, on loopback."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.configured import ConfiguredSources
from lorry_server.adapters.sources.patience import FetchCancelledError, Patience
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter_files import (
    ADAPTER_FILES,
    CONFIG_FILE,
    PICKLE_FILE,
    SIDECAR_FILE,
    WEIGHTS_FILE,
)
from lorry_server.lora.safetensors_header import check_header
from tests.support.file_server import FileServer, HostedFile
from tests.support.plain_adapters import (
    adapter_files,
    kept_entries,
    never,
    read_files,
    sources_for,
)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        server.host("adapters/sql", adapter_files())
        yield server


@pytest.fixture
def sources(server: FileServer, tmp_path: Path) -> ConfiguredSources:
    return sources_for(
        tmp_path, prefixes=(f"{server.url}/adapters",), patience=Patience(stall_s=20)
    )


@pytest.fixture
def sql(server: FileServer) -> str:
    return f"{server.url}/adapters/sql"


def weights(server: FileServer) -> HostedFile:
    return server.files[f"/adapters/sql/{WEIGHTS_FILE}"]


def refusal(sources: ConfiguredSources, source: str) -> str:
    with pytest.raises(AdapterSourceError) as caught:
        sources.fetch(source, cancelled=never)
    return str(caught.value)


def num_downloads(server: FileServer) -> int:
    return sum(1 for method, path in server.requests if method == "GET" and WEIGHTS_FILE in path)


def test_an_adapter_is_fetched_whole_and_only_its_files_are(
    server: FileServer, sources: ConfiguredSources, sql: str, tmp_path: Path
) -> None:
    folder = sources.fetch(sql, cancelled=never)

    assert read_files(folder) == adapter_files()
    assert kept_entries(tmp_path) == [folder]
    assert {path for _, path in server.requests} == {
        f"/adapters/sql/{name}" for name in ADAPTER_FILES
    }


def test_a_sidecar_may_be_missing(server: FileServer, sources: ConfiguredSources, sql: str) -> None:
    del server.files[f"/adapters/sql/{SIDECAR_FILE}"]

    assert set(read_files(sources.fetch(sql, cancelled=never))) == {CONFIG_FILE, WEIGHTS_FILE}


def test_what_has_not_changed_is_not_fetched_again(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    folder = sources.fetch(sql, cancelled=never)

    assert sources.fetch(sql, cancelled=never) == folder
    assert num_downloads(server) == 1


def test_what_has_changed_is_fetched_again(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    old = sources.fetch(sql, cancelled=never)
    server.host("adapters/sql", adapter_files(seed=1), version="2")
    new = sources.fetch(sql, cancelled=never)

    assert read_files(new) == adapter_files(seed=1)
    assert read_files(old) == adapter_files()


def test_a_server_that_cannot_tell_versions_is_read_each_time(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    server.host("adapters/sql", adapter_files(), version=None)
    first = sources.fetch(sql, cancelled=never)
    assert sources.fetch(sql, cancelled=never) == first  # kept by its content
    assert num_downloads(server) == 2

    server.host("adapters/sql", adapter_files(seed=1), version=None)
    assert read_files(sources.fetch(sql, cancelled=never)) == adapter_files(seed=1)


def test_many_who_ask_at_once_cause_one_download(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    weights(server).gate.clear()
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(sources.fetch, sql, cancelled=never) for _ in range(8)]
        while num_downloads(server) == 0:
            time.sleep(0.005)
        weights(server).gate.set()
        folders = {future.result() for future in waiting}

    assert len(folders) == 1
    assert num_downloads(server) == 1


def test_one_who_leaves_does_not_end_the_download_of_the_others(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    weights(server).gate.clear()
    has_left = threading.Event()
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(sources.fetch, sql, cancelled=has_left.is_set)
        while num_downloads(server) == 0:
            time.sleep(0.005)
        second = threads.submit(sources.fetch, sql, cancelled=never)
        while sources._flights.num_waiting(sql) < 2:
            time.sleep(0.005)
        third = threads.submit(sources.fetch, sql, cancelled=lambda: True)
        with pytest.raises(FetchCancelledError):
            third.result()
        has_left.set()
        weights(server).gate.set()

        assert read_files(second.result()) == adapter_files()
        assert first.result() == second.result()
    assert num_downloads(server) == 1


def test_a_chunked_answer_of_unknown_length_is_read_to_its_end(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    weights(server).num_bytes = None

    assert read_files(sources.fetch(sql, cancelled=never)) == adapter_files()


def test_a_server_of_unknown_length_that_never_ends_is_cut_off(
    server: FileServer, tmp_path: Path, sql: str
) -> None:
    weights(server).content = bytes(3_000_000)
    weights(server).num_bytes = None
    sources = sources_for(tmp_path, prefixes=(server.url,), max_adapter_bytes=2_000_000)

    message = refusal(sources, sql)

    assert "or more; 2000000 are allowed; --max-adapter-bytes allows more" in message
    assert kept_entries(tmp_path) == []


def test_an_adapter_that_is_too_large_is_refused_before_it_is_fetched(
    server: FileServer, tmp_path: Path, sql: str
) -> None:
    weights(server).num_bytes = 1 << 40
    sources = sources_for(tmp_path, prefixes=(server.url,))

    assert "1099511627776 bytes or more" in refusal(sources, sql)
    assert num_downloads(server) == 0


def test_a_length_that_promises_too_much_is_a_broken_download(
    server: FileServer, sources: ConfiguredSources, sql: str, tmp_path: Path
) -> None:
    weights(server).num_bytes = len(weights(server).content) + 1
    weights(server).cut_after = len(weights(server).content)

    assert "the connection ended before the file did" in refusal(sources, sql)
    assert kept_entries(tmp_path) == []


def test_a_length_that_promises_too_little_is_never_taken_for_whole(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    """HTTP may see it by what follows; if it does not, the safetensors header does."""
    weights(server).num_bytes = len(weights(server).content) - 1

    with pytest.raises(AdapterError):
        check_header((sources.fetch(sql, cancelled=never) / WEIGHTS_FILE).read_bytes())


@pytest.mark.parametrize("num_bytes", [0, 1, 100])
def test_a_connection_that_is_cut_leaves_nothing_and_may_be_tried_again(
    server: FileServer, sources: ConfiguredSources, sql: str, tmp_path: Path, num_bytes: int
) -> None:
    weights(server).cut_after = num_bytes
    assert "the connection ended before the file did" in refusal(sources, sql)
    assert kept_entries(tmp_path) == []

    weights(server).cut_after = None
    assert read_files(sources.fetch(sql, cancelled=never)) == adapter_files()


def test_a_chunked_answer_that_is_cut_is_not_taken_for_whole(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    weights(server).num_bytes = None
    weights(server).cut_after = 100

    assert "the connection ended before the file did" in refusal(sources, sql)


def test_a_server_that_stalls_is_given_up(server: FileServer, tmp_path: Path, sql: str) -> None:
    weights(server).stall_after = 50
    sources = sources_for(tmp_path, prefixes=(server.url,), patience=Patience(stall_s=1))

    assert f"{WEIGHTS_FILE} at" in (message := refusal(sources, sql))
    assert "nothing has come for 1 seconds" in message
    assert kept_entries(tmp_path) == []


def test_a_stalled_fetch_ends_when_nobody_wants_it(
    server: FileServer, tmp_path: Path, sql: str
) -> None:
    weights(server).stall_after = 50
    sources = sources_for(tmp_path, prefixes=(server.url,), patience=Patience(stall_s=60))
    has_left = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(sources.fetch, sql, cancelled=has_left.is_set)
        while num_downloads(server) == 0:
            time.sleep(0.005)
        has_left.set()
        with pytest.raises(FetchCancelledError):
            waiting.result(timeout=30)

    assert kept_entries(tmp_path) == []


def test_a_slow_file_takes_its_time_and_comes_whole(
    server: FileServer, sources: ConfiguredSources, sql: str, tmp_path: Path
) -> None:
    """A named pipe behind the server gives the weights at the pace of whoever feeds it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = weights(server).content
    weights(server).fifo = pipe

    def feed() -> None:
        with pipe.open("wb", buffering=0) as opened:
            for start in range(0, len(content), 64):
                opened.write(content[start : start + 64])
                time.sleep(0.005)

    feeder = threading.Thread(target=feed)
    feeder.start()
    folder = sources.fetch(sql, cancelled=never)
    feeder.join()

    assert read_files(folder) == adapter_files()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "access was denied"),
        (403, "access was denied"),
        (404, f"there is no {WEIGHTS_FILE}"),
        (410, f"there is no {WEIGHTS_FILE}"),
        (429, "the answer had the status 429"),
        (500, "the answer had the status 500"),
        (503, "the answer had the status 503"),
    ],
)
def test_a_refusal_of_the_server_is_passed_on(
    server: FileServer, sources: ConfiguredSources, sql: str, status: int, words: str
) -> None:
    weights(server).status = status

    assert words in refusal(sources, sql)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_is_not_followed(
    server: FileServer, sources: ConfiguredSources, sql: str, status: int
) -> None:
    weights(server).status = status
    weights(server).location = f"{server.url}/secret/latest?signature=abc"

    message = refusal(sources, sql)

    assert "redirections are not followed" in message
    assert "http://127.0.0.1/" in message
    assert "abc" not in message
    assert not any("secret" in path for _, path in server.requests)


def test_a_sidecar_that_may_not_be_read_is_not_taken_for_missing(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    server.files[f"/adapters/sql/{SIDECAR_FILE}"].status = 403

    assert f"cannot fetch {SIDECAR_FILE}" in refusal(sources, sql)


def test_a_server_that_is_gone_cannot_be_reached(tmp_path: Path) -> None:
    with FileServer() as server:
        url = server.url
    sources = sources_for(tmp_path, prefixes=(url,))

    assert "it cannot be reached" in refusal(sources, f"{url}/sql")


def test_a_pickle_is_refused_by_name(
    server: FileServer, sources: ConfiguredSources, sql: str
) -> None:
    server.files[f"/adapters/sql/{PICKLE_FILE}"] = server.files.pop(f"/adapters/sql/{WEIGHTS_FILE}")

    assert f"{PICKLE_FILE}, a pickle" in refusal(sources, sql)


def test_an_adapter_that_changes_while_it_is_read_is_read_again(
    server: FileServer, sources: ConfiguredSources, sql: str, tmp_path: Path
) -> None:
    weights(server).gate.clear()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(sources.fetch, sql, cancelled=never)
        while num_downloads(server) == 0:
            time.sleep(0.005)
        gate = weights(server).gate
        server.host("adapters/sql", adapter_files(seed=1), version="2")
        gate.set()
        folder = waiting.result()

    assert read_files(folder) == adapter_files(seed=1)
    assert kept_entries(tmp_path) == [folder]


@pytest.mark.parametrize(
    "trick",
    [
        "{url}/adapters/../secret",
        "{url}/secret",
        "{url}/adapters-of-others/x",
        "{url}/adapters/%2e%2e/secret",
        "http://127.0.0.1@evil.org/adapters/sql",
        "HTTP://127.0.0.1/adapters/sql",
        "{url}/adapters/sql?x=/secret",
        "ftp://127.0.0.1/adapters/sql",
        "simplecache::{url}/adapters/sql",
    ],
)
def test_what_is_not_allowed_is_not_asked_for(
    server: FileServer, sources: ConfiguredSources, trick: str
) -> None:
    message = refusal(sources, trick.format(url=server.url))

    assert "not allowed" in message or "--adapter-source" in message
    assert server.requests == []


def test_a_remote_root_has_names(server: FileServer, tmp_path: Path) -> None:
    times = [0.0]
    sources = sources_for(tmp_path, roots=(f"{server.url}/adapters",), clock=lambda: times[0])

    assert sources.find("sql") == f"{server.url}/adapters/sql"
    assert sources.find("law") is None
    asked = len(server.requests)
    server.host("adapters/law", adapter_files(seed=1))
    assert sources.find("law") is None  # remembered for a while, and not asked again
    assert len(server.requests) == asked
    times[0] = 60.0
    assert sources.find("law") == f"{server.url}/adapters/law"
    assert read_files(sources.fetch("law", cancelled=never)) == adapter_files(seed=1)


def test_a_root_that_cannot_be_asked_says_so_when_the_name_is_fetched(tmp_path: Path) -> None:
    with FileServer() as server:
        url = server.url
    sources = sources_for(tmp_path, roots=(url,))

    assert sources.find("sql") == f"{url}/sql"
    assert "it cannot be reached" in refusal(sources, f"{url}/sql")
