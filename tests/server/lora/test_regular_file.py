"""Regular files are read; whatever else a path may lead to is refused at once."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from lorry_server.errors import AdapterError
from lorry_server.lora import regular_file
from lorry_server.lora.regular_file import read_regular_file, refuse_unless_regular


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")

    assert read_regular_file(file, max_bytes=7) == b"content"


def test_a_relative_path_is_below_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.chdir(tmp_path)

    assert read_regular_file(Path("file"), max_bytes=7) == b"content"


def test_a_file_that_is_too_large_is_refused_with_both_numbers(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)  # sparse: reading it would take all memory

    with pytest.raises(AdapterError, match="has 1099511627776 bytes; 10 are allowed"):
        read_regular_file(file, max_bytes=10)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="none' is not there"):
        read_regular_file(tmp_path / "none", max_bytes=10)


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(AdapterError, match="is a named pipe, not a regular file"):
        read_regular_file(tmp_path / "pipe", max_bytes=10)


def test_folders_sockets_and_devices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "folder", "a folder"),
            (tmp_path / "socket", "a socket"),
            (Path("/dev/zero"), "a device"),
        ):
            with pytest.raises(AdapterError, match=f"is {kind}, not a regular file"):
                read_regular_file(path, max_bytes=10)


def test_a_link_is_not_followed_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"content")
    (tmp_path / "folder" / "link").symlink_to("file")
    (tmp_path / "other").symlink_to("folder")

    with pytest.raises(AdapterError, match="is a symbolic link, not a regular file"):
        read_regular_file(tmp_path / "folder" / "link", max_bytes=10)
    with pytest.raises(AdapterError, match="lies behind a symbolic link"):
        read_regular_file(tmp_path / "other" / "file", max_bytes=10)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_file_that_becomes_something_else_before_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")

    def refuse_and_swap(mode: int) -> None:
        refuse_unless_regular(mode)
        (tmp_path / "file").unlink()
        if kind == "link":
            (tmp_path / "file").symlink_to("secret")
        else:
            os.mkfifo(tmp_path / "file")
        monkeypatch.undo()

    monkeypatch.setattr(regular_file, "refuse_unless_regular", refuse_and_swap)

    with pytest.raises(AdapterError, match=r"behind a symbolic link|is a named pipe"):
        read_regular_file(tmp_path / "file", max_bytes=10)


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"begun")
    fstat, looks = os.fstat, []

    def fstat_and_grow(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        looks.append(status)
        if len(looks) == 2:  # the first asks what it is, the second how large
            file.write_bytes(b"begun and more")
        return status

    monkeypatch.setattr(os, "fstat", fstat_and_grow)

    with pytest.raises(AdapterError, match="was written to while it was read"):
        read_regular_file(file, max_bytes=100)
