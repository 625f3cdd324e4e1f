"""Folders of a watched directory are served as they come, change and go, and never half written."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
import structlog
import torch
from safetensors.torch import save

from lorry_server.adapters.watch import AdapterWatch
from lorry_server.adapters.watched_folders import PATIENCE
from lorry_server.finetune.whole_folder import replaced_whole
from tests.support.noting_library import NotingLibrary

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def write_folder(folder: Path, *, value: float = 1.0, num_bytes: int | None = None) -> Path:
    """A PEFT folder as far as a watch looks at it, its weights cut after `num_bytes`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text("{}")
    (folder / WEIGHTS).write_bytes(save({"a": torch.full((4,), value)})[:num_bytes])
    return folder


@pytest.fixture
def library() -> NotingLibrary:
    return NotingLibrary()


@pytest.fixture
def watch(library: NotingLibrary, tmp_path: Path) -> AdapterWatch:
    return AdapterWatch(library, [tmp_path / "first", tmp_path / "second"])


async def poll(watch: AdapterWatch, times: int = 1) -> None:
    for _ in range(times):
        await watch.poll_once()
        await watch.settled()


async def test_folder_is_served_when_two_polls_found_it_the_same(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    await poll(watch)  # the directory itself may come later
    folder = write_folder(tmp_path / "first" / "y.step-200")

    await poll(watch)
    assert library.calls == []
    await poll(watch)
    assert library.served == {"y.step-200": str(folder)}
    await poll(watch, times=5)
    assert library.calls == [("load", "y.step-200")]


async def test_half_written_weights_are_served_only_when_they_are_whole(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    write_folder(tmp_path / "first" / "y", num_bytes=50)
    with structlog.testing.capture_logs() as logs:
        await poll(watch, times=5)
    assert library.calls == []
    (log,) = logs  # once for each content
    assert log["adapter"] == "y"
    assert "adapter_model.safetensors" in log["reason"]

    write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)

    assert library.calls == [("load", "y")]


async def test_file_that_grows_at_every_poll_is_not_served(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    for num_bytes in range(20, 90, 2):
        write_folder(tmp_path / "first" / "y", num_bytes=num_bytes)
        await poll(watch)

    assert library.calls == []


async def test_copy_that_stalls_is_given_to_the_library_once_which_says_what_is_wrong(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    library.broken.add("y")
    write_folder(tmp_path / "first" / "y", num_bytes=50)

    await poll(watch, times=PATIENCE)
    assert library.calls == []
    await poll(watch, times=2 * PATIENCE)
    assert library.calls == [("load", "y")]

    library.broken.clear()
    write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)
    assert list(library.served) == ["y"]


async def test_changed_folder_replaces_what_was_served(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)

    with replaced_whole(folder) as unfinished:
        write_folder(unfinished, value=2.0)
        await poll(watch, times=2)  # the unfinished folder is hidden
    await poll(watch, times=2)

    assert library.calls == [("load", "y"), ("load", "y")]


async def test_changed_card_alone_loads_again(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)

    (folder / "lorry.json").write_text("{}")
    await poll(watch, times=2)

    assert library.calls == [("load", "y"), ("load", "y")]


async def test_broken_adapter_is_tried_and_logged_once_until_it_changes(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    library.broken.add("y")
    write_folder(tmp_path / "first" / "y")
    with structlog.testing.capture_logs() as logs:
        await poll(watch, times=6)
    assert library.calls == [("load", "y")]
    assert [log["reason"] for log in logs] == ["y is broken"]
    assert library.find("y") is not None  # listed, so that its card can say why

    library.broken.clear()
    write_folder(tmp_path / "first" / "y", value=3.0)
    await poll(watch, times=2)

    assert list(library.served) == ["y"]


async def test_removed_folder_is_unloaded_when_two_polls_missed_it(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)

    shutil.rmtree(folder)
    await poll(watch)
    assert list(library.served) == ["y"]
    await poll(watch)
    assert library.served == {}

    write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)
    assert list(library.served) == ["y"]


async def test_folder_missing_for_one_poll_is_not_loaded_again(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "first" / "y")
    await poll(watch, times=2)

    folder.rename(tmp_path / "aside")
    await poll(watch)
    (tmp_path / "aside").rename(folder)
    await poll(watch, times=3)

    assert library.calls == [("load", "y")]


async def test_name_that_something_else_has_is_left_alone(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    library.served["y"] = "the operator's own"
    folder = write_folder(tmp_path / "first" / "y")

    with structlog.testing.capture_logs() as logs:
        await poll(watch, times=3)
    shutil.rmtree(folder)
    await poll(watch, times=3)

    assert library.calls == []
    assert library.served == {"y": "the operator's own"}
    assert [log["reason"] for log in logs] == ["the name is taken"]


async def test_first_directory_counts_where_two_have_a_name(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    first = write_folder(tmp_path / "first" / "y")
    second = write_folder(tmp_path / "second" / "y", value=2.0)
    await poll(watch, times=3)
    assert library.served == {"y": str(first)}

    shutil.rmtree(first)
    await poll(watch, times=3)

    assert library.served == {"y": str(second)}


@pytest.mark.parametrize("name", [".hidden", "with space", "y@step-200", "-y"])
async def test_folder_whose_name_cannot_be_an_adapters_is_not_served(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path, name: str
) -> None:
    write_folder(tmp_path / "first" / name)

    await poll(watch, times=3)

    assert library.calls == []


@pytest.mark.parametrize("linked", ["y", f"y/{WEIGHTS}", f"y/{CONFIG}"])
async def test_links_are_not_followed_and_that_is_logged_once(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path, linked: str
) -> None:
    outside = write_folder(tmp_path / "outside" / "y")
    if linked == "y":
        (tmp_path / "first").mkdir()
    else:
        write_folder(tmp_path / "first" / "y")
        (tmp_path / "first" / linked).unlink()
    (tmp_path / "first" / linked).symlink_to(outside.parent / linked)

    with structlog.testing.capture_logs() as logs:
        await poll(watch, times=2 * PATIENCE)

    assert library.calls == []
    assert len(logs) == 1
    assert "is a symbolic link" in logs[0]["reason"]


async def test_watched_directory_may_be_a_link_itself(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "elsewhere" / "y")
    (tmp_path / "first").symlink_to(folder.parent)

    await poll(watch, times=2)

    assert library.served == {"y": str(folder)}


async def test_slow_load_holds_up_no_other_and_a_change_meanwhile_follows_it(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    library.gates["slow"] = asyncio.Event()
    slow = write_folder(tmp_path / "first" / "slow")
    await watch.poll_once()
    await watch.poll_once()
    write_folder(tmp_path / "first" / "quick")
    write_folder(slow, value=2.0)
    await watch.poll_once()
    await watch.poll_once()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert list(library.served) == ["quick"]
    assert library.calls.count(("load", "slow")) == 1

    library.gates["slow"].set()
    await watch.settled()

    assert library.calls.count(("load", "slow")) == 2
    assert set(library.served) == {"quick", "slow"}


async def test_running_watch_serves_what_comes_and_ends_when_it_is_cancelled(
    library: NotingLibrary, tmp_path: Path
) -> None:
    watch = AdapterWatch(library, [tmp_path], poll_s=0.005)
    running = asyncio.create_task(watch.run())
    write_folder(tmp_path / "y")

    while not library.served:  # noqa: ASYNC110 - the test's own time limit bounds it
        await asyncio.sleep(0.005)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert library.calls == [("load", "y")]


async def test_pipe_in_place_of_weights_stalls_nothing(
    watch: AdapterWatch, library: NotingLibrary, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "first" / "pipe")
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    write_folder(tmp_path / "first" / "y")

    await poll(watch, times=2)

    assert list(library.served) == ["y"]
