"""The README's Python runs as it stands, against a server with adapters of the names it uses."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from lorry.cli import main
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import whole_server

README = Path(__file__).resolve().parent.parent / "README.md"


async def test_the_first_example_of_the_readme_runs(tmp_path: Path) -> None:
    (first, *_) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    folder = write_tiny_model(tmp_path / "model")
    adapters = {
        name: write_adapter(
            folder, tmp_path / name, seed=seed, r=4, lora_alpha=8, target_modules=["q_proj"]
        )
        for seed, name in enumerate(("pirate", "pricing"))
    }
    async with whole_server(folder, adapters=adapters) as server:
        program = first.replace("http://127.0.0.1:8000", server.base_url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()

    assert process.returncode == 0
    assert re.findall(r"^(pirate|pricing|None) ", output.decode(), flags=re.MULTILINE)


def test_every_file_that_the_readme_points_to_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())

    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


@pytest.mark.parametrize("command", ["serve", "finetune"])
def test_every_flag_that_the_readme_names_exists(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = README.read_text()
    section = text[text.index("## Serve") : text.index("## Call")]
    other = "serve" if command == "finetune" else "finetune"
    lines = [line for line in section.splitlines() if f"lorry {other} " not in line]
    if command == "finetune":  # which has no prose of its own
        lines = [line for line in lines if "lorry finetune " in line]

    named = set(re.findall(r"(--[a-z][a-z-]+)", "\n".join(lines))) - {"--help"}
    help_text = capsys.readouterr().out
    assert named
    assert [flag for flag in named if flag not in help_text] == []
