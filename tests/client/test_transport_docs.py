"""Every snippet of the pages on testing and on openai runs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import lorry
from lorry.testing import Answer, FakeServer

DOCS = Path(__file__).parents[2] / "docs"


async def run_snippets(page: str, names: dict[str, Any], **replaced: str) -> dict[str, Any]:
    """All of a page in turn, since later ones build on earlier ones."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for old, new in replaced.items():
            snippet = snippet.replace(old, new)
        code = compile(snippet, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(code, names)
        if inspect.isawaitable(done):
            await done
    return names


async def test_page_on_testing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = await run_snippets("client-testing.md", {"lorry": lorry})

    assert len(names["results"]) == 50
    assert any(isinstance(result, lorry.ClientError) for result in names["results"])
    assert "Recorded words" not in (tmp_path / "answers.jsonl").read_text().split("\n")[0]


async def test_page_on_openai_runs(capsys: pytest.CaptureFixture[str]) -> None:
    async with FakeServer({"pirate": Answer(text="Arr!")}) as server:
        await run_snippets(
            "client-openai.md", {"lorry": lorry}, **{"http://127.0.0.1:8000": server.url}
        )

    assert capsys.readouterr().out.startswith("Arr! ")
