"""`lorry adapters check`: what it prints, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorry_server.adapters.check_cli import main
from tests.support.broken_adapters import BROKEN
from tests.support.sound_adapter import write_sound
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "adapter")


def test_a_sound_adapter_is_described_and_let_through(
    adapter: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(adapter), "--model", str(base)])

    printed = capsys.readouterr().out
    assert status == 0
    assert "layers 0-1: self_attn.q_proj rank 4 scaling 2" in printed
    assert "2 modules x 4 inputs as served (int8)" in printed
    assert printed.endswith("verdict    ok\n")


def test_without_a_model_the_adapter_is_checked_by_itself(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([str(adapter)])

    printed = capsys.readouterr().out
    assert status == 0
    assert "checked by itself" in printed
    assert "no base weights at hand" in printed


def test_json_is_the_whole_report_and_the_contract(
    adapter: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / "lorry.json").write_text('{"max_tokens": 7}')
    status = main([str(adapter), "--model", str(base), "--json"])

    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (report["verdict"], report["num_modules"]) == ("ok", 2)
    assert report["contract"] == {"max_tokens": 7}
    assert report["path"] == str(adapter)


def test_warnings_count_only_when_they_are_asked_for(tmp_path: Path, base: Path) -> None:
    warned = write_sound(tmp_path / "warned", target_modules=["q_proj", "k_proj"])

    assert main([str(warned), "--model", str(base)]) == 0
    assert main([str(warned), "--model", str(base), "--strict"]) == 1


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_adapter_that_cannot_be_read_is_refused_in_a_sentence(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = BROKEN["NaN"].write(tmp_path / "broken")

    status = main([str(broken), *options])

    printed = capsys.readouterr()
    assert status == 2
    assert "NaN" in (json.loads(printed.out)["error"] if options else printed.err)


def test_an_adapter_of_another_model_is_refused_with_the_whole_report(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = BROKEN["layers under another prefix"].write(tmp_path / "foreign")

    status = main([str(foreign), "--model", str(base)])

    printed = capsys.readouterr().out
    assert status == 2
    assert "nearest: model.layers.0.self_attn.q_proj" in printed
    assert printed.endswith("verdict    refuse\n")


def test_a_contract_that_cannot_be_kept_is_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = BROKEN["temperature too high"].write(tmp_path / "broken")

    assert main([str(broken), "--model", str(base)]) == 2
    assert "temperature" in capsys.readouterr().err


def test_names_of_a_stranger_cannot_move_the_cursor(
    adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = adapter / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": "\x1b[2Jhello"}
    file.write_text(json.dumps(config))

    assert main([str(adapter)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_path_that_is_no_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nothing")]) == 2
    assert "adapter_config.json" in capsys.readouterr().err
