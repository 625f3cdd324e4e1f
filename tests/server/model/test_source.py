from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.errors import ModelError
from lorry_server.model.gguf import converted_folder
from lorry_server.model.source import (
    DEFAULT_MODEL,
    ModelSource,
    resolve_model,
)


def ignore(line: str) -> None:
    pass


def resolve(name: str | None, cache_dir: Path, **finders: Path | None) -> ModelSource:
    """`resolve_model` with the bundle and the hub given as the paths that they would yield."""
    hub = finders.get("hub")

    def download(model_id: str) -> Path:
        if hub is None:
            raise ModelError(f"no network for {model_id}")
        return hub / model_id

    return resolve_model(
        name,
        cache_dir=cache_dir,
        progress=ignore,
        find_bundled=lambda: finders.get("bundled"),
        download=download,
    )


def write_gguf(path: Path) -> Path:
    path.write_bytes(b"GGUF" + bytes(100))
    return path


def write_converted(file: Path, *, cache_dir: Path) -> Path:
    """A folder as if `file` had been converted to `cache_dir` before."""
    folder = converted_folder(file, cache_dir=cache_dir)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", [None, DEFAULT_MODEL])
def test_default_is_the_converted_copy_in_the_cache(tmp_path: Path, name: str | None) -> None:
    bundled = write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = write_converted(bundled, cache_dir=tmp_path)

    source = resolve(name, tmp_path, bundled=bundled, hub=tmp_path / "hub")

    assert source == ModelSource(folder, model_id=DEFAULT_MODEL)


def test_default_is_found_in_the_cache_when_the_bundle_is_gone(tmp_path: Path) -> None:
    bundled = write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = write_converted(bundled, cache_dir=tmp_path)

    assert resolve(None, tmp_path, hub=tmp_path / "hub").path == folder


def test_default_is_converted_from_the_bundle_before_the_hub_is_asked(tmp_path: Path) -> None:
    bundled = write_gguf(tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf")

    with pytest.raises(ModelError, match=r"cannot convert .*SmolLM2"):
        resolve(None, tmp_path, bundled=bundled, hub=tmp_path / "hub")


def test_default_comes_from_the_hub_last(tmp_path: Path) -> None:
    source = resolve(None, tmp_path, hub=tmp_path / "hub")

    assert source == ModelSource(tmp_path / "hub" / DEFAULT_MODEL, model_id=DEFAULT_MODEL)


def test_folder_is_served_under_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()

    assert resolve(str(folder), tmp_path) == ModelSource(folder, model_id="my-model")


def test_gguf_file_is_served_from_its_converted_folder(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf")
    folder = write_converted(file, cache_dir=tmp_path)

    assert resolve(str(file), tmp_path) == ModelSource(folder, model_id="tiny")


def test_hub_id_is_fetched(tmp_path: Path) -> None:
    source = resolve("org/model-1.5", tmp_path, hub=tmp_path)

    assert source == ModelSource(tmp_path / "org/model-1.5", model_id="org/model-1.5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.bin", "weights.bin is a pickle"),
        ("/models/x.PT", "x.PT is a pickle"),
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("/no/such/folder", "'/no/such/folder' is neither a folder, nor a .gguf file"),
        ("just-a-name", "'just-a-name' is neither a folder"),
        ("org/model/extra", "'org/model/extra' is neither a folder"),
        ("org/model", "no network for org/model"),
    ],
)
def test_what_cannot_be_found_is_refused_by_name(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(name, tmp_path)
