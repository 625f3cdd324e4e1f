"""A folder is there whole or not at all, whatever happens to its writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.finetune.whole_folder import remove_leftovers, removed_whole, replaced_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_folder_takes_its_name_when_it_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "y"
    with replaced_whole(folder) as unfinished:
        (unfinished / "file").write_text("new")
        assert not folder.exists()
        assert unfinished.name.startswith(".")

    assert (folder / "file").read_text() == "new"
    assert names(folder.parent) == ["y"]


def test_old_folder_stays_until_the_new_one_is_written_and_goes_with_all_its_files(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "y"
    folder.mkdir()
    (folder / "old").write_text("old")

    with replaced_whole(folder) as unfinished:
        (unfinished / "new").write_text("new")
        assert names(folder) == ["old"]

    assert names(folder) == ["new"]
    assert names(tmp_path) == ["y"]


def test_writer_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "y"
    folder.mkdir()

    def fail() -> None:
        with replaced_whole(folder) as unfinished:
            (unfinished / "half").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()

    assert names(tmp_path) == ["y"]
    assert names(folder) == []


def test_removing_takes_the_folder_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "y" / "inside").mkdir(parents=True)
    (tmp_path / "z").mkdir()

    removed_whole(tmp_path / "y")
    removed_whole(tmp_path / "y")

    assert names(tmp_path) == ["z"]


def test_leftovers_of_a_killed_writer_are_removed_and_those_of_other_folders_are_not(
    tmp_path: Path,
) -> None:
    writer = replaced_whole(tmp_path / "y")
    (writer.__enter__() / "half").write_text("half")  # and never left
    for name in ("y", ".y", ".y-z-abcdefgh", ".yy-abcdefgh"):
        (tmp_path / name).mkdir()

    remove_leftovers(tmp_path / "y")

    assert names(tmp_path) == [".y", ".y-z-abcdefgh", ".yy-abcdefgh", "y"]
