"""`FakeHub`: what the module huggingface_hub is to us, with repositories in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.errors
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@dataclass
class FakeHub:
    """`commits` has the files of each commit of "org/name"; `revisions` what "main" is, say.

    `cache` stands for the library's own cache on disk, `asked` has every file that was opened.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    cache: dict[tuple[str, str], Path] = field(default_factory=dict)
    is_offline: bool = False
    is_gated: bool = False
    asked: list[str] = field(default_factory=list)

    @property
    def errors(self) -> Any:
        return huggingface_hub.errors

    def HfApi(self) -> Any:
        return SimpleNamespace(model_info=self._model_info)

    def HfFileSystem(self, *, skip_instance_cache: bool) -> Any:
        assert skip_instance_cache
        return SimpleNamespace(open=self._open)

    def try_to_load_from_cache(self, repo_id: str, filename: str, *, revision: str) -> Any:
        commit = self.revisions.get(revision, revision)
        path = self.cache.get((commit, filename))
        return None if path is None else str(path)

    def _model_info(
        self, repo_id: str, *, revision: str, files_metadata: bool, timeout: float
    ) -> Any:
        assert files_metadata, "else there are no sizes"
        assert timeout > 0
        if self.is_offline:
            raise OfflineModeIsEnabled("offline")
        if repo_id != "org/sql":
            raise _http_error(RepositoryNotFoundError, 401)
        if self.is_gated:
            raise _http_error(GatedRepoError, 403)
        commit = self.revisions.get(revision, revision)
        if commit not in self.commits:
            raise _http_error(RevisionNotFoundError, 404)
        return SimpleNamespace(
            sha=commit,
            siblings=[
                SimpleNamespace(rfilename=name, size=len(content))
                for name, content in self.commits[commit].items()
            ],
        )

    def _open(self, path: str, mode: str, *, block_size: int) -> io.BytesIO:
        assert (mode, block_size) == ("rb", 0)
        self.asked.append(path)
        repo_and_commit, _, name = path.rpartition("/")
        return io.BytesIO(self.commits[repo_and_commit.partition("@")[2]][name])


def _http_error(kind: Any, status: int) -> Exception:
    """The library's errors want an answer; only its status matters here."""
    error: Exception = kind.__new__(kind)
    vars(error)["response"] = SimpleNamespace(status_code=status)
    return error
