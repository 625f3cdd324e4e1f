"""The stand-in for huggingface_hub is like it: the library itself, against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.file_server import FileServer, HostedFile
from tests.support.plain_adapters import adapter_files

COMMIT = "1" * 40
ROOT = Path(__file__).resolve().parents[3]

FETCH = """
import sys
from pathlib import Path
from tests.support.plain_adapters import adapter_files, never, read_files, sources_for

sources = sources_for(Path(sys.argv[1]), prefixes=("hf://org/",))
for source in sys.argv[2:]:
    try:
        print(read_files(sources.fetch(source, cancelled=never)) == adapter_files())
    except Exception as exc:
        print(type(exc).__name__, exc)
"""


@pytest.fixture
def hub() -> Iterator[FileServer]:
    files = adapter_files()
    info = {
        "id": "org/sql",
        "sha": COMMIT,
        "siblings": [{"rfilename": name, "size": len(files[name])} for name in files],
    }
    with FileServer() as server:
        for path in ("main?blobs=true", COMMIT):
            server.files[f"/api/models/org/sql/revision/{path}"] = HostedFile(
                json.dumps(info).encode()
            )
        for name, content in files.items():
            server.files[f"/org/sql/resolve/{COMMIT}/{name}"] = HostedFile(content, etag='"1"')
        yield server


def fetch(hub: FileServer, folder: Path, *sources: str, **variables: str) -> list[str]:
    """What fetching each source ends with, in a process of its own: the library reads its
    settings when it is imported."""
    environment = os.environ | variables
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_TOKEN": ""}
    environment["PYTHONPATH"] = f"{ROOT}:{environment.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", FETCH, str(folder / "cache"), *sources],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if "adapter fetched" not in line]


def test_the_library_fetches_once_and_offline_what_it_has(hub: FileServer, tmp_path: Path) -> None:
    (first, second, none) = fetch(hub, tmp_path, "hf://org/sql", "hf://org/sql", "hf://org/none")
    assert (first, second) == ("True", "True")
    assert none == "AdapterSourceError there is no repository 'hf://org/none'"
    bodies = [path for _, path in hub.requests if "/resolve/" in path]
    assert bodies == [f"/org/sql/resolve/{COMMIT}/{name}" for name in adapter_files()]

    hub.requests.clear()
    (first, none) = fetch(hub, tmp_path, "hf://org/sql", "hf://org/none", HF_HUB_OFFLINE="1")
    assert first == "True"
    assert none.startswith("OfflineError 'hf://org/none' is not on this machine")
    assert hub.requests == []
