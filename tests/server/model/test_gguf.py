from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from lorry_server.errors import ModelError
from lorry_server.model.gguf import Progress, convert_gguf, converted_folder
from lorry_server.model.gguf_file import GGUFFile
from lorry_server.model.gguf_llama import convert_llama
from tests.support.logits import our_logits, token_ids
from tests.support.tiny_gguf import write_tiny_gguf


def ignore(line: str) -> None:
    pass


def write_gguf(path: Path, *, content: bytes = b"weights") -> Path:
    path.write_bytes(b"GGUF" + content)
    return path


def write_config(file: Path, folder: Path, progress: Progress) -> None:
    progress("writing")
    (folder / "config.json").write_text(file.name)


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_is_converted_once(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    lines: list[str] = []

    first = convert_gguf(file, cache_dir=tmp_path, progress=lines.append, write=write_config)
    num_lines = len(lines)
    second = convert_gguf(file, cache_dir=tmp_path, progress=lines.append, write=write_config)

    assert first == second == converted_folder(file, cache_dir=tmp_path)
    assert entries(first) == ["config.json"]
    assert len(lines) == num_lines > 0


def test_other_contents_under_the_same_name_are_converted_anew(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", content=b"x" * 300_000)
    before = converted_folder(file, cache_dir=tmp_path)

    write_gguf(file, content=b"x" * 299_999 + b"y")

    assert converted_folder(file, cache_dir=tmp_path) != before


def test_moved_file_keeps_its_conversion(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")
    before = converted_folder(file, cache_dir=tmp_path)
    (tmp_path / "elsewhere").mkdir()

    moved = file.rename(tmp_path / "elsewhere" / "a.gguf")

    assert converted_folder(moved, cache_dir=tmp_path) == before


def test_conversion_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(file: Path, folder: Path, progress: Progress) -> None:
        (folder / "model.safetensors").write_text("half")
        raise ModelError("the disk is full")

    file = write_gguf(tmp_path / "a.gguf")

    with pytest.raises(ModelError, match="the disk is full"):
        convert_gguf(file, cache_dir=tmp_path, progress=ignore, write=fail)

    assert entries(tmp_path / "models") == []


def test_second_of_two_conversions_at_once_takes_what_the_first_made(tmp_path: Path) -> None:
    def write_late(file: Path, folder: Path, progress: Progress) -> None:
        """Another process begins and ends a conversion while this one writes."""
        convert_gguf(file, cache_dir=tmp_path, progress=progress, write=write_config)
        (folder / "config.json").write_text("late")

    file = write_gguf(tmp_path / "a.gguf")

    folder = convert_gguf(file, cache_dir=tmp_path, progress=ignore, write=write_late)

    assert (folder / "config.json").read_text() == "a.gguf"
    assert entries(tmp_path / "models") == [folder.name]


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(b"PK\x03\x04")

    with pytest.raises(ModelError, match=r"a\.gguf is not a GGUF file"):
        convert_gguf(file, cache_dir=tmp_path, progress=ignore)


def test_file_that_cannot_be_read_as_gguf_is_refused(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf")

    with pytest.raises(ModelError, match=r"cannot convert .*a\.gguf"):
        convert_gguf(file, cache_dir=tmp_path, progress=ignore)


def test_converted_model_is_the_original_in_bfloat16(tmp_path: Path) -> None:
    original = tmp_path / "original"
    file = write_tiny_gguf(tmp_path / "tiny.gguf", original=original)

    folder = convert_gguf(file, cache_dir=tmp_path, progress=ignore)

    expected = {
        name: tensor.bfloat16()
        for name, tensor in load_file(original / "model.safetensors").items()
    }
    tensors = load_file(folder / "model.safetensors")
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    error_TV = our_logits(folder, token_ids()) - our_logits(original, token_ids())
    assert error_TV.abs().max() < 0.5


def test_converted_tokenizer_is_the_original(tmp_path: Path) -> None:
    original = tmp_path / "original"
    file = write_tiny_gguf(tmp_path / "tiny.gguf", original=original)
    text = "<|im_start|>the thing in 2024, 日本 🙂<|im_end|>"

    folder = convert_gguf(file, cache_dir=tmp_path, progress=ignore)

    expected = Tokenizer.from_file(str(original / "tokenizer.json")).encode(text).ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == expected
    template = "chat_template.jinja"
    assert (folder / template).read_text() == (original / template).read_text()


def test_transformers_converts_a_llama_to_the_same_model(tmp_path: Path) -> None:
    from lorry_server.model.gguf_transformers import convert_with_transformers

    file = write_tiny_gguf(tmp_path / "tiny.gguf", original=tmp_path / "original")
    contents = GGUFFile(file)

    ours, theirs = convert_llama(contents), convert_with_transformers(file, contents)

    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in ours.tensors)
    assert {key: theirs.config[key] for key in ours.config} == ours.config
    assert ours.chat_template == theirs.chat_template
    text = "the thing in 2024, 日本"
    assert ours.tokenizer.encode(text).ids == theirs.tokenizer.encode(text).ids


@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.99])
def test_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", original=tmp_path / "original")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])

    with pytest.raises(ModelError, match=r"cannot convert .*tiny\.gguf"):
        convert_gguf(file, cache_dir=tmp_path, progress=ignore)
