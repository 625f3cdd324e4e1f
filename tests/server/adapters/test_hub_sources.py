"""Adapters on the Hugging Face hub, through a stand-in for its library."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.configured import ConfiguredSources
from lorry_server.lora.adapter_files import CONFIG_FILE, PICKLE_FILE, SIDECAR_FILE, WEIGHTS_FILE
from tests.support.fake_hub import FakeHub
from tests.support.plain_adapters import adapter_files, never, read_files, sources_for, write_files

ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture
def hub() -> FakeHub:
    files = adapter_files() | {PICKLE_FILE: b"pickle", "README.md": b"words", "train.py": b"code"}
    return FakeHub(
        commits={ONE: files, TWO: adapter_files(seed=2)}, revisions={"main": ONE, "v2": TWO}
    )


@pytest.fixture
def sources(hub: FakeHub, tmp_path: Path) -> ConfiguredSources:
    return sources_for(tmp_path / "cache", prefixes=("hf://org/",), hub=hub)


def refusal(sources: ConfiguredSources, source: str) -> AdapterSourceError:
    with pytest.raises(AdapterSourceError) as caught:
        sources.fetch(source, cancelled=never)
    return caught.value


def test_only_the_files_of_an_adapter_are_fetched(hub: FakeHub, sources: ConfiguredSources) -> None:
    folder = sources.fetch("hf://org/sql", cancelled=never)

    assert read_files(folder) == adapter_files()
    assert hub.asked == [f"org/sql@{ONE}/{name}" for name in adapter_files()]


def test_a_revision_is_fetched_by_its_commit_and_once(
    hub: FakeHub, sources: ConfiguredSources
) -> None:
    folder = sources.fetch("hf://org/sql@v2", cancelled=never)
    assert read_files(folder) == adapter_files(seed=2)

    assert sources.fetch("hf://org/sql@v2", cancelled=never) == folder
    assert len(hub.asked) == 3


def test_a_branch_that_moves_is_fetched_again(hub: FakeHub, sources: ConfiguredSources) -> None:
    old = sources.fetch("hf://org/sql", cancelled=never)
    hub.revisions["main"] = TWO

    assert read_files(sources.fetch("hf://org/sql", cancelled=never)) == adapter_files(seed=2)
    assert read_files(old) == adapter_files()


def test_a_branch_that_moves_meanwhile_does_not_mix_commits(
    hub: FakeHub, sources: ConfiguredSources
) -> None:
    class Moving(FakeHub):
        def HfFileSystem(self, *, skip_instance_cache: bool) -> object:
            self.revisions["main"] = TWO
            return super().HfFileSystem(skip_instance_cache=skip_instance_cache)

    hub.__class__ = Moving

    assert read_files(sources.fetch("hf://org/sql", cancelled=never)) == adapter_files()


def test_what_the_hubs_own_cache_has_is_not_fetched(
    hub: FakeHub, sources: ConfiguredSources, tmp_path: Path
) -> None:
    snapshot = write_files(tmp_path / "hub" / ONE, adapter_files())
    hub.cache = {(ONE, name): snapshot / name for name in (CONFIG_FILE, WEIGHTS_FILE)}

    assert read_files(sources.fetch("hf://org/sql", cancelled=never)) == adapter_files()
    assert hub.asked == [f"org/sql@{ONE}/{SIDECAR_FILE}"]


def test_offline_the_hubs_cache_is_served(
    hub: FakeHub, sources: ConfiguredSources, tmp_path: Path
) -> None:
    snapshot = write_files(tmp_path / "hub" / ONE, adapter_files())
    hub.cache = {(ONE, name): snapshot / name for name in adapter_files()}
    hub.is_offline = True

    assert read_files(sources.fetch("hf://org/sql", cancelled=never)) == adapter_files()
    assert hub.asked == []


def test_offline_what_was_fetched_before_is_served(
    hub: FakeHub, sources: ConfiguredSources
) -> None:
    folder = sources.fetch("hf://org/sql", cancelled=never)
    hub.is_offline = True

    assert sources.fetch("hf://org/sql", cancelled=never) == folder
    assert "HF_HUB_OFFLINE is set" in str(refusal(sources, "hf://org/sql@v2"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hf://org/none", "no such repository, or it is private"),
        ("hf://org/sql@v9", "no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_missing(
    sources: ConfiguredSources, source: str, words: str
) -> None:
    error = refusal(sources, source)

    assert words in str(error)
    assert error.is_missing


def test_a_gated_repository_says_what_to_do(hub: FakeHub, sources: ConfiguredSources) -> None:
    hub.is_gated = True

    assert "accept its terms on the hub and set HF_TOKEN" in str(refusal(sources, "hf://org/sql"))


def test_a_repository_with_a_pickle_alone_is_refused(
    hub: FakeHub, sources: ConfiguredSources
) -> None:
    del hub.commits[ONE][WEIGHTS_FILE]

    assert f"{PICKLE_FILE}, a pickle" in str(refusal(sources, "hf://org/sql"))
    assert hub.asked == []


def test_an_adapter_that_is_too_large_is_refused_before_it_is_fetched(
    hub: FakeHub, tmp_path: Path
) -> None:
    sources = sources_for(tmp_path, prefixes=("hf://",), hub=hub, max_adapter_bytes=100)

    assert "--max-adapter-bytes" in str(refusal(sources, "hf://org/sql"))
    assert hub.asked == []


@pytest.mark.parametrize("source", ["hf://other/sql", "hf://org2/sql"])
def test_another_organisation_is_not_asked_for(
    hub: FakeHub, sources: ConfiguredSources, source: str
) -> None:
    assert "--adapter-source hf://" in str(refusal(sources, source))


def test_a_folder_of_a_repository_is_not_one(sources: ConfiguredSources) -> None:
    assert "write hf://owner/name" in str(refusal(sources, "hf://org/sql/folder"))


def test_a_hub_id_alone_is_a_source_where_it_is_allowed(sources: ConfiguredSources) -> None:
    assert read_files(sources.fetch("org/sql", cancelled=never)) == adapter_files()
    assert refusal(sources, "other/sql").is_missing
    assert sources.find("org/sql") is None  # a source that may be named, and no root


@pytest.mark.parametrize(
    ("root", "name", "found"),
    [
        ("hf://", "org/sql", "hf://org/sql"),
        ("hf://org", "org/sql", "hf://org/sql"),
        ("hf://org", "sql", "hf://org/sql"),
        ("hf://", "sql", None),
        ("hf://org", "other/sql", None),
        ("hf://org", "none", None),
    ],
)
def test_a_hub_root_has_names(
    hub: FakeHub, tmp_path: Path, root: str, name: str, found: str | None
) -> None:
    assert sources_for(tmp_path, roots=(root,), hub=hub).find(name) == found
