"""What lies in the cache is whole, within the budget, and not removed while it is about to be read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources import disk_cache
from lorry_server.adapters.sources.disk_cache import GRACE_S, DiskCache
from lorry_server.adapters.sources.patience import FetchCancelledError
from lorry_server.lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from tests.support.plain_adapters import never


class Clock:
    """Time that passes only when somebody sleeps, or a test lets it."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> DiskCache:
    return DiskCache(tmp_path / "cache", budget_bytes=1000, clock=clock, sleep=clock.sleep)


def add(cache: DiskCache, key: str, *, num_bytes: int = 300, is_known: bool = True) -> Path:
    with cache.new_entry(cancelled=never) as entry:
        if is_known:
            entry.reserve(num_bytes)
        entry.write(CONFIG_FILE, [b"{}"])
        entry.write(WEIGHTS_FILE, [bytes(num_bytes - 2)])
        return entry.keep(key)


def names(tmp_path: Path) -> list[str]:
    return sorted(folder.name for folder in (tmp_path / "cache").iterdir())


def test_an_entry_is_found_when_it_is_whole(cache: DiskCache) -> None:
    assert cache.find("a-1") is None
    folder = add(cache, "a-1")

    assert cache.find("a-1") == folder
    assert (folder / CONFIG_FILE).read_bytes() == b"{}"


def test_what_was_not_kept_is_gone(cache: DiskCache, tmp_path: Path) -> None:
    with cache.new_entry(cancelled=never) as entry:
        entry.write(CONFIG_FILE, [b"{}"])
        entry.write(WEIGHTS_FILE, [b"x"])

    assert names(tmp_path) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_what_was_not_used_for_longest_makes_room(
    cache: DiskCache, clock: Clock, tmp_path: Path, is_known: bool
) -> None:
    for key in ("a-1", "b-1", "c-1"):
        add(cache, key)
        clock.sleep(100)
    cache.find("a-1")
    clock.sleep(100)

    add(cache, "d-1", is_known=is_known)

    assert "a-1" in names(tmp_path)
    assert "b-1" not in names(tmp_path)
    assert total_bytes(tmp_path) <= 1000


def total_bytes(tmp_path: Path) -> int:
    return sum(file.stat().st_size for file in (tmp_path / "cache").glob("*/*"))


def test_the_budget_holds_whatever_the_sizes(
    cache: DiskCache, clock: Clock, tmp_path: Path
) -> None:
    for index in range(30):
        add(cache, f"{index}-1", num_bytes=50 + 37 * index % 700)
        clock.sleep(20)
        assert total_bytes(tmp_path) <= 1000


def test_an_entry_that_was_just_fetched_is_waited_for(
    cache: DiskCache, clock: Clock, tmp_path: Path
) -> None:
    add(cache, "a-1", num_bytes=600)
    started_s = clock.now_s
    add(cache, "b-1", num_bytes=600)

    assert clock.now_s - started_s >= GRACE_S - 0.1
    assert names(tmp_path) == ["b-1"]


def test_who_waits_for_room_may_be_cancelled(cache: DiskCache) -> None:
    add(cache, "a-1", num_bytes=600)

    with (
        cache.new_entry(cancelled=lambda: True) as entry,
        pytest.raises(FetchCancelledError),
    ):
        entry.reserve(600)


def test_an_adapter_that_never_fits_is_refused_with_both_numbers(cache: DiskCache) -> None:
    with (
        cache.new_entry(cancelled=never) as entry,
        pytest.raises(AdapterSourceError, match=r"1001 bytes .* of 1000; --adapter-disk-cache"),
    ):
        entry.reserve(1001)


def test_room_that_others_hold_is_waited_for_and_then_given_up(cache: DiskCache) -> None:
    with cache.new_entry(cancelled=never) as first, cache.new_entry(cancelled=never) as second:
        first.reserve(600)
        with pytest.raises(AdapterSourceError, match="full of adapters that are being loaded"):
            second.reserve(600)


def test_the_newest_version_of_a_source_is_found(cache: DiskCache, clock: Clock) -> None:
    assert cache.find_newest("a") is None
    for key in ("a-1", "a-2", "b-1"):
        folder = add(cache, key)
        clock.sleep(1)

    assert cache.find_newest("a") == folder.parent / "a-2"


def test_two_that_finish_the_same_entry_share_it(cache: DiskCache, tmp_path: Path) -> None:
    first = add(cache, "a-1")

    assert add(cache, "a-1") == first
    assert names(tmp_path) == ["a-1"]


def test_an_entry_that_lost_a_file_is_made_again(cache: DiskCache) -> None:
    folder = add(cache, "a-1")
    (folder / WEIGHTS_FILE).unlink()

    assert cache.find("a-1") is None
    assert add(cache, "a-1") == folder
    assert (folder / WEIGHTS_FILE).is_file()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_and_leaves_nothing(
    cache: DiskCache, tmp_path: Path, code: int
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        raise OSError(code, os.strerror(code))  # as writing does

    with (
        pytest.raises(AdapterSourceError, match=r"the disk of the adapter cache .* is full"),
        cache.new_entry(cancelled=never) as entry,
    ):
        entry.write(WEIGHTS_FILE, pieces())

    assert names(tmp_path) == []


def test_a_file_size_limit_of_the_system_is_a_full_disk(tmp_path: Path) -> None:
    """A whole process with a limit, because a limit cannot be taken back."""
    code = f"""
import resource, signal
from pathlib import Path
from lorry_server.adapters.sources.disk_cache import DiskCache
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
cache = DiskCache(Path({str(tmp_path)!r}), budget_bytes=1 << 20)
try:
    with cache.new_entry(cancelled=lambda: False) as entry:
        entry.write("adapter_model.safetensors", [bytes(5000)])
except Exception as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "is full" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = DiskCache(tmp_path / "file" / "cache", budget_bytes=1000)

    with (
        pytest.raises(AdapterSourceError, match="cannot write to the adapter cache"),
        cache.new_entry(cancelled=never),
    ):
        pass


def test_what_a_killed_process_left_is_removed_and_never_taken_for_whole(
    cache: DiskCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""
import os
from pathlib import Path
from lorry_server.adapters.sources.disk_cache import DiskCache
cache = DiskCache(Path({str(tmp_path / "cache")!r}), budget_bytes=1 << 20)
with cache.new_entry(cancelled=lambda: False) as entry:
    entry.write("adapter_config.json", [b"{{}}"])
    entry.write("adapter_model.safetensors", [bytes(100)])
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    (left,) = names(tmp_path)
    assert left.startswith(".unfinished-")
    assert cache.find(left.removeprefix(".unfinished-")) is None

    monkeypatch.setattr(disk_cache, "UNLOCKED_S", 0.0)
    add(cache, "a-1")

    assert names(tmp_path) == ["a-1"]


def test_what_somebody_is_writing_is_not_swept(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "UNLOCKED_S", 0.0)
    with cache.new_entry(cancelled=never) as first:
        first.reserve(100)
        add(cache, "b-1")
        first.write(CONFIG_FILE, [b"{}"])
        first.write(WEIGHTS_FILE, [b"x"])
        assert first.keep("a-1").is_dir()


def test_many_threads_stay_within_the_budget(tmp_path: Path) -> None:
    cache = DiskCache(
        tmp_path / "cache", budget_bytes=1000, clock=iter(range(10**9, 10**10, 1000)).__next__
    )
    errors = []

    def work(number: int) -> None:
        try:
            for index in range(10):
                add(cache, f"{number}.{index}-1", num_bytes=200)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert total_bytes(tmp_path) <= 1000
