"""Adapters in folders of this machine: found by name, and never from outside of the roots."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources import local_folder
from lorry_server.adapters.sources.configured import ConfiguredSources
from lorry_server.adapters.sources.patience import FetchCancelledError
from lorry_server.errors import AdapterError, StartupError
from lorry_server.lora.adapter_files import CONFIG_FILE, PICKLE_FILE, SIDECAR_FILE, WEIGHTS_FILE
from lorry_server.lora.regular_file import open_folder, read_regular_file
from tests.support.plain_adapters import (
    adapter_files,
    kept_entries,
    never,
    read_files,
    sources_for,
    write_files,
)

NOBODY = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_files(tmp_path / "root" / "sql", adapter_files())
    write_files(tmp_path / "root" / "team" / "law", adapter_files(seed=1))
    return tmp_path / "root"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    return write_files(tmp_path / "secret", adapter_files(seed=9))


@pytest.fixture
def sources(tmp_path: Path, root: Path) -> ConfiguredSources:
    return sources_for(tmp_path / "cache", roots=(str(root),))


def refusal(sources: ConfiguredSources, source: str) -> str:
    with pytest.raises(AdapterSourceError) as caught:
        sources.fetch(source, cancelled=never)
    return str(caught.value)


def test_a_name_is_found_below_a_root_and_served_from_where_it_lies(
    sources: ConfiguredSources, root: Path, tmp_path: Path
) -> None:
    for name in ("sql", "team/law"):
        source = sources.find(name)
        assert source == str(root / name)
        assert sources.fetch(source, cancelled=never) == root / name
    assert kept_entries(tmp_path / "cache") == []


def test_a_folder_that_is_no_root_is_read_from_and_not_searched(
    tmp_path: Path, root: Path, secret: Path
) -> None:
    sources = sources_for(tmp_path / "cache", folders=(str(root),))

    assert sources.find("sql") is None
    assert sources.fetch(str(root / "sql"), cancelled=never) == root / "sql"
    assert "--adapter-root" in refusal(sources, str(secret))


def test_the_first_root_that_has_a_name_has_it(tmp_path: Path, root: Path) -> None:
    other = write_files(tmp_path / "other" / "sql", adapter_files(seed=2)).parent
    write_files(other / "new", adapter_files(seed=3))
    sources = sources_for(tmp_path / "cache", roots=(str(root), str(other)))

    assert sources.find("sql") == str(root / "sql")
    assert sources.find("new") == str(other / "new")


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", ".", "..", "../secret", "sql/..", "sql/../sql", "/etc", "//x", "~/x", "-x"),
        *("C:\\x", "..\\..\\x", "%2e%2e/secret", "\uff0e\uff0e/secret", "a\u2215b", "sq\u04cf"),
        *("sql\n", "sql\0", "sql\r\n", "team", "none", "a/b/c", "n" * 300, "n" * 10_000),
        *("file:///etc", "s3://bucket/sql", "sql "),
    ],
)
def test_a_name_that_is_none_or_that_no_root_has_is_not_found(
    sources: ConfiguredSources, name: str
) -> None:
    assert sources.find(name) is None


def test_many_unknown_names_are_answered_quickly(sources: ConfiguredSources) -> None:
    started_s = time.thread_time()  # what else the machine does is not theirs
    for index in range(1000):
        assert sources.find(f"unknown-{index}") is None

    assert time.thread_time() - started_s < 1


@pytest.mark.parametrize("text", ["sql", "team/law"])
def test_a_bare_name_is_a_source_too(sources: ConfiguredSources, root: Path, text: str) -> None:
    assert sources.fetch(text, cancelled=never) == root / text


@pytest.mark.parametrize(
    "text", ["", "none", "./sql", "../root/sql", "~/x", "C:\\x", "sql\n", "n" * 10_000]
)
def test_a_source_that_is_neither_name_nor_path_nor_url_is_refused(
    sources: ConfiguredSources, text: str
) -> None:
    message = refusal(sources, text)

    assert "neither a name below an --adapter-root" in message
    assert len(message) < 500


def test_a_path_outside_of_the_roots_is_refused_with_the_flag_that_allows_it(
    sources: ConfiguredSources, secret: Path
) -> None:
    for source in (str(secret), f"file://{secret}"):
        message = refusal(sources, source)
        assert str(secret) in message
        assert f"--adapter-root '{secret.parent}'" in message


@pytest.mark.parametrize("part", ["n" * 300, "x/" * 3000, "a\nb", "a\0b", "\udcff", "\u202e"])
def test_a_path_that_no_folder_can_have_is_refused_in_a_short_sentence(
    sources: ConfiguredSources, root: Path, part: str
) -> None:
    message = refusal(sources, f"{root}/{part}")

    assert "is not a path that this server reads" in message or "File name too long" in message
    assert len(message) < 600
    assert message.isprintable()


@pytest.mark.parametrize("path", ["../secret", "sql/../../secret", "sql/../sql"])
def test_a_path_with_dots_is_refused_wherever_it_leads(
    sources: ConfiguredSources, root: Path, secret: Path, path: str
) -> None:
    assert "'..'" in refusal(sources, f"{root}/{path}")
    assert "not allowed" in refusal(sources, f"file://{root}/{path}")


def test_a_file_url_allows_what_is_below_it_by_url_and_by_path(tmp_path: Path, root: Path) -> None:
    sources = sources_for(tmp_path / "cache", prefixes=(f"file://{root}",))

    assert sources.fetch(f"file://{root}/sql", cancelled=never) == root / "sql"
    assert sources.fetch(str(root / "sql"), cancelled=never) == root / "sql"
    assert sources.find("sql") is None  # it is no root


def test_a_link_that_stays_below_the_root_leads_to_the_folder(
    sources: ConfiguredSources, root: Path
) -> None:
    (root / "current").symlink_to("sql")

    assert sources.find("current") == str(root / "current")
    assert sources.fetch(str(root / "current"), cancelled=never) == root / "sql"


@pytest.mark.parametrize("url", ["", "file://"])
def test_a_root_that_is_not_there_stops_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(StartupError, match=r"none', which is no folder"):
        sources_for(tmp_path / "cache", roots=(f"{url}{tmp_path}/none",))


def test_a_root_that_is_a_link_is_where_it_leads(tmp_path: Path, root: Path) -> None:
    (tmp_path / "link").symlink_to("root")
    sources = sources_for(tmp_path / "cache", roots=(str(tmp_path / "link"),))

    source = sources.find("sql")
    assert source is not None
    assert sources.fetch(source, cancelled=never) == root / "sql"


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_link_out_of_the_root_is_refused(
    sources: ConfiguredSources, root: Path, secret: Path, is_absolute: bool
) -> None:
    (root / "bad").symlink_to(secret if is_absolute else "../secret")
    (root / "deep").symlink_to("..")

    for source in (sources.find("bad"), str(root / "bad"), str(root / "deep" / "secret")):
        assert source is not None
        assert "symbolic link that leads out" in refusal(sources, source)


def test_a_file_that_is_a_link_out_of_the_root_is_refused(
    sources: ConfiguredSources, root: Path, secret: Path
) -> None:
    for name in (CONFIG_FILE, WEIGHTS_FILE, SIDECAR_FILE):
        folder = write_files(root / "bad", adapter_files())
        (folder / name).unlink()
        (folder / name).symlink_to(secret / name)
        assert "symbolic link that leads out" in refusal(sources, str(folder))
        (folder / name).unlink()


def test_a_loop_of_links_is_refused(sources: ConfiguredSources, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")

    assert sources.find("a") is None
    assert "symbolic link" in refusal(sources, str(root / "a"))


def test_files_that_are_links_below_the_root_are_copied(
    sources: ConfiguredSources, root: Path, tmp_path: Path
) -> None:
    linked = root / "linked"
    linked.mkdir()
    for name in adapter_files():
        (linked / name).symlink_to(f"../sql/{name}")

    folder = sources.fetch(str(linked), cancelled=never)

    assert folder.parent == tmp_path / "cache" / "adapters"
    assert read_files(folder) == adapter_files()
    assert sources.fetch(str(linked), cancelled=never) == folder
    write_files(root / "sql", adapter_files(seed=5))
    changed = sources.fetch(str(linked), cancelled=never)
    assert read_files(changed) == adapter_files(seed=5)


def test_a_path_whose_bytes_are_no_text_may_be_named(tmp_path: Path, secret: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in adapter_files():
        (folder / name).symlink_to(secret / name)
    sources = sources_for(tmp_path / "cache", named=(str(folder),))

    assert read_files(sources.fetch(str(folder), cancelled=never)) == adapter_files(seed=9)


def test_what_the_operator_named_may_lie_anywhere_and_be_links(
    tmp_path: Path, secret: Path
) -> None:
    hub_cache = tmp_path / "snapshots" / "abc"
    hub_cache.mkdir(parents=True)
    for name in adapter_files():
        (hub_cache / name).symlink_to(secret / name)
    (tmp_path / "link").symlink_to(secret)
    named = (str(hub_cache), str(tmp_path / "link"))
    sources = sources_for(tmp_path / "cache", named=named)

    assert read_files(sources.fetch(named[0], cancelled=never)) == adapter_files(seed=9)
    assert sources.fetch(named[1], cancelled=never) == secret
    assert "--adapter-root" in refusal(sources, str(secret))


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, SIDECAR_FILE])
def test_a_named_pipe_is_refused_and_not_waited_for(
    sources: ConfiguredSources, root: Path, name: str
) -> None:
    (root / "sql" / name).unlink()
    os.mkfifo(root / "sql" / name)

    assert f"{name} at" in refusal(sources, str(root / "sql"))
    assert "is a named pipe, not a regular file" in refusal(sources, str(root / "sql"))


def test_a_folder_where_a_file_should_be_is_refused(sources: ConfiguredSources, root: Path) -> None:
    (root / "sql" / WEIGHTS_FILE).unlink()
    (root / "sql" / WEIGHTS_FILE).mkdir()

    assert "is a folder, not a regular file" in refusal(sources, str(root / "sql"))


def test_a_file_where_a_folder_should_be_is_refused(sources: ConfiguredSources, root: Path) -> None:
    (root / "file").write_bytes(b"x")

    assert sources.find("file") is None
    assert "something that is no folder" in refusal(sources, str(root / "file"))


def test_what_is_not_there_is_said_to_be_missing(sources: ConfiguredSources, root: Path) -> None:
    (root / "empty").mkdir()
    write_files(root / "half", {CONFIG_FILE: b"{}"})

    for source, words in (("gone", "is not there"), ("empty", CONFIG_FILE), ("half", WEIGHTS_FILE)):
        with pytest.raises(AdapterSourceError, match=words) as caught:
            sources.fetch(str(root / source), cancelled=never)
        assert caught.value.is_missing


def test_a_pickle_is_refused_by_name(sources: ConfiguredSources, root: Path) -> None:
    (root / "sql" / WEIGHTS_FILE).rename(root / "sql" / PICKLE_FILE)

    assert f"{PICKLE_FILE}, a pickle" in refusal(sources, str(root / "sql"))


def test_an_adapter_that_is_too_large_is_refused_before_it_is_read(
    tmp_path: Path, root: Path
) -> None:
    sources = sources_for(tmp_path / "cache", roots=(str(root),), max_adapter_bytes=1 << 30)
    with (root / "sql" / WEIGHTS_FILE).open("wb") as opened:
        opened.truncate(1 << 40)

    message = refusal(sources, "sql")

    assert "1099511627776 bytes or more; 1073741824 are allowed; --max-adapter-bytes" in message


def test_a_configuration_that_is_too_large_is_refused(
    sources: ConfiguredSources, root: Path
) -> None:
    (root / "sql" / CONFIG_FILE).write_bytes(bytes((1 << 20) + 1))

    assert "1048577 bytes or more; 1048576 are allowed" in refusal(sources, "sql")


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root reads what nobody may read."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_the_server_may_not_read_is_said(tmp_path: Path, root: Path) -> None:
    sources = sources_for(tmp_path / "cache", roots=(str(root),))
    for folder in (tmp_path, *tmp_path.parents):  # pytest's folders are its user's alone
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o011)
    (root / "sql" / WEIGHTS_FILE).chmod(0)

    with as_ordinary_user():
        message = refusal(sources, "sql")

    assert f"{WEIGHTS_FILE} at" in message
    assert "may not be read by this server's user" in message


def test_a_name_that_may_not_be_looked_at_says_so_when_it_is_fetched(
    tmp_path: Path, root: Path
) -> None:
    sources = sources_for(tmp_path / "cache", roots=(str(root),))
    root.chmod(0)

    with as_ordinary_user():
        assert sources.find("sql") == str(root / "sql")
        message = refusal(sources, "sql")
    root.chmod(0o700)

    assert "may not be read by this server's user" in message


def test_a_fetch_that_nobody_wants_ends(sources: ConfiguredSources) -> None:
    with pytest.raises(FetchCancelledError, match="cancelled"):
        sources.fetch("sql", cancelled=lambda: True)


def test_a_folder_that_becomes_a_link_before_it_is_opened_is_refused(
    sources: ConfiguredSources, root: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_after_the_swap(path: Path) -> int:
        swap(root / "sql", secret)
        return open_folder(path)

    monkeypatch.setattr(local_folder, "open_folder", open_after_the_swap)

    assert "lies behind a symbolic link" in refusal(sources, str(root / "sql"))


def test_a_folder_above_that_becomes_a_link_before_it_is_opened_is_refused(
    sources: ConfiguredSources, root: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(secret / "law", adapter_files(seed=9))

    def open_after_the_swap(path: Path) -> int:
        swap(root / "team", secret)
        return open_folder(path)

    monkeypatch.setattr(local_folder, "open_folder", open_after_the_swap)

    assert "lies behind a symbolic link" in refusal(sources, str(root / "team" / "law"))


def test_a_folder_that_becomes_a_link_after_it_was_fetched_is_not_read(
    sources: ConfiguredSources, root: Path, secret: Path
) -> None:
    folder = sources.fetch("sql", cancelled=never)
    swap(root / "sql", secret)

    with pytest.raises(AdapterError, match="lies behind a symbolic link"):
        read_regular_file(folder / CONFIG_FILE, max_bytes=1 << 20)


def swap(folder: Path, other: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.symlink_to(other)
