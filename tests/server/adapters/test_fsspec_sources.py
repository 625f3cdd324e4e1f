"""Adapters at any URL that fsspec reads: memory, S3, and file systems that are not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.configured import ConfiguredSources
from lorry_server.lora.adapter_files import PICKLE_FILE, SIDECAR_FILE, WEIGHTS_FILE
from tests.support.plain_adapters import adapter_files, never, read_files, sources_for


class ClientError(Exception):
    """botocore's."""

    response: dict[str, Any]


class FakeS3(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What s3fs is to its users, with one bucket in memory and etags that a test sets."""

    protocol = "s3"
    objects: ClassVar[dict[str, bytes]]
    etags: ClassVar[dict[str, str]]
    denied: ClassVar[set[str]]
    made_with: ClassVar[list[dict[str, Any]]]
    no_such_bucket: ClassVar[bool]

    def __init__(self, **options: Any) -> None:
        self.made_with.append(options)
        super().__init__(global_store=False)
        for path, content in self.objects.items():
            self.pipe_file(path, content)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/")

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.denied:
            raise PermissionError("Forbidden, with a signature in its text")
        if path not in self.objects and self.no_such_bucket:
            # as s3fs makes of botocore's answer
            error = ClientError("NoSuchBucket")
            error.response = {"ResponseMetadata": {"HTTPStatusCode": 404}}
            raise FileNotFoundError(path) from error
        info: dict[str, Any] = super().info(path, **kwargs)
        del info["created"]
        return info | {"ETag": self.etags.get(path, '"1"')}


@pytest.fixture
def s3() -> Iterator[type[FakeS3]]:
    before = _registry.get("s3")
    _registry["s3"] = FakeS3
    FakeS3.objects = {f"/bucket/adapters/sql/{n}": c for n, c in adapter_files().items()}
    FakeS3.etags, FakeS3.denied, FakeS3.made_with = {}, set(), []
    FakeS3.no_such_bucket = False
    yield FakeS3
    del _registry["s3"]
    if before is not None:
        _registry["s3"] = before


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    file_system = fsspec.filesystem("memory")
    for name, content in adapter_files().items():
        file_system.pipe_file(f"memory://adapters/sql/{name}", content)
    yield file_system
    file_system.rm("memory://adapters", recursive=True)


def refusal(sources: ConfiguredSources, source: str) -> str:
    with pytest.raises(AdapterSourceError) as caught:
        sources.fetch(source, cancelled=never)
    return str(caught.value)


def test_any_file_system_of_fsspec_is_read(memory: MemoryFileSystem, tmp_path: Path) -> None:
    sources = sources_for(tmp_path, roots=("memory://adapters/",))

    assert sources.find("sql") == "memory://adapters/sql"
    assert sources.find("law") is None
    folder = sources.fetch("memory://adapters/sql", cancelled=never)
    assert read_files(folder) == adapter_files()
    assert sources.fetch("sql", cancelled=never) == folder

    memory.pipe_file(f"memory://adapters/sql/{WEIGHTS_FILE}", adapter_files(seed=1)[WEIGHTS_FILE])
    changed = sources.fetch("sql", cancelled=never)
    assert (changed / WEIGHTS_FILE).read_bytes() == adapter_files(seed=1)[WEIGHTS_FILE]


def test_a_folder_where_a_file_should_be_is_refused(
    memory: MemoryFileSystem, tmp_path: Path
) -> None:
    memory.pipe_file(f"memory://adapters/odd/{WEIGHTS_FILE}/x", b"x")
    memory.pipe_file("memory://adapters/odd/adapter_config.json", b"{}")

    message = refusal(sources_for(tmp_path, prefixes=("memory://",)), "memory://adapters/odd")
    assert f"{WEIGHTS_FILE} at 'memory://adapters/odd' is not a file" in message


def test_s3_is_asked_with_time_limits_and_without_a_listing_cache(
    s3: type[FakeS3], tmp_path: Path
) -> None:
    sources = sources_for(tmp_path, prefixes=("s3://bucket/adapters/",))

    folder = sources.fetch("s3://bucket/adapters/sql", cancelled=never)

    assert read_files(folder) == adapter_files()
    (options,) = s3.made_with
    assert options["use_listings_cache"] is False
    assert options["config_kwargs"] == {"connect_timeout": 10, "read_timeout": 30}


def test_an_object_is_fetched_again_when_its_etag_changes(s3: type[FakeS3], tmp_path: Path) -> None:
    sources = sources_for(tmp_path, prefixes=("s3://bucket/",))
    source = "s3://bucket/adapters/sql"
    first = sources.fetch(source, cancelled=never)
    assert sources.fetch(source, cancelled=never) == first

    s3.etags[f"/bucket/adapters/sql/{WEIGHTS_FILE}"] = '"2"'

    assert sources.fetch(source, cancelled=never) != first


def test_a_denied_object_is_named_and_the_librarys_text_is_not_shown(
    s3: type[FakeS3], tmp_path: Path
) -> None:
    s3.denied.add(f"/bucket/adapters/sql/{SIDECAR_FILE}")
    message = refusal(sources_for(tmp_path, prefixes=("s3://bucket/",)), "s3://bucket/adapters/sql")

    assert (
        f"cannot fetch {SIDECAR_FILE} at 's3://bucket/adapters/sql': access was denied" in message
    )
    assert "signature" not in message


def test_a_bucket_that_is_not_there_has_no_adapter(s3: type[FakeS3], tmp_path: Path) -> None:
    s3.no_such_bucket = True
    sources = sources_for(tmp_path, roots=("s3://none/",))

    assert sources.find("sql") is None


def test_an_object_that_is_a_pickle_is_refused(s3: type[FakeS3], tmp_path: Path) -> None:
    folder = "/bucket/adapters/sql"
    s3.objects[f"{folder}/{PICKLE_FILE}"] = s3.objects.pop(f"{folder}/{WEIGHTS_FILE}")

    assert f"{PICKLE_FILE}, a pickle" in refusal(
        sources_for(tmp_path, prefixes=("s3://bucket/",)), "s3://bucket/adapters/sql"
    )


@pytest.mark.parametrize(
    "source",
    ["s3://bucket/secret", "s3://bucket/adapters/../secret", "s3://other/adapters/sql"],
)
def test_what_is_not_allowed_is_not_asked_for(
    s3: type[FakeS3], tmp_path: Path, source: str
) -> None:
    message = refusal(sources_for(tmp_path, prefixes=("s3://bucket/adapters/",)), source)

    assert "not allowed" in message or "start it with --adapter-source s3://" in message
    assert s3.made_with == []


def test_what_the_operator_named_is_read_though_nothing_else_there_is_allowed(
    s3: type[FakeS3], tmp_path: Path
) -> None:
    sources = sources_for(tmp_path, named=("s3://bucket/adapters/sql",))

    folder = sources.fetch("s3://bucket/adapters/sql", cancelled=never)

    assert read_files(folder) == adapter_files()
    assert "start it with --adapter-source s3://" in refusal(sources, "s3://bucket/adapters/law")
    assert "start it with --adapter-source s3://" in refusal(sources, "s3://bucket/adapters")


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    sources = sources_for(tmp_path, prefixes=("s3://bucket/", "abfs://box/"))

    assert "pip install 'lorry[remote]'" in refusal(sources, "s3://bucket/sql")
    assert "adlfs" in refusal(sources, "abfs://box/sql")


def test_without_fsspec_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    sources = sources_for(tmp_path, prefixes=("memory://",))

    assert "needs fsspec: pip install 'lorry[remote]'" in refusal(sources, "memory://sql")


def test_a_scheme_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    sources = sources_for(tmp_path, prefixes=("gopher://host/",))

    assert "gopher:// is not a kind of source" in refusal(sources, "gopher://host/sql")
