"""Training data and runs for a tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lorry_server.finetune import cli

ROWS: Sequence[Mapping[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": "What does the Brook cost?"},
            {"role": "assistant", "content": "240 euros."},
        ]
    },
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "And the River?"},
            {"role": "assistant", "content": "580."},
            {"role": "user", "content": "The Delta?"},
            {"role": "assistant", "content": "1,900."},
        ]
    },
    {"prompt": "The pump is", "completion": " in the house."},
    {"text": "the thing in the house"},
    {"prompt": "Lead time:", "completion": " 3 days"},
]


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]] = ROWS) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def finetune(model: Path, data: Path, output: Path, *flags: str) -> int:
    """`lorry finetune`, small and on the CPU; later `flags` win over these."""
    arguments = ["--model", str(model), "--data", str(data), "--output", str(output)]
    arguments += ["--name", output.name, "--device", "cpu", "--rank", "2", "--batch-size", "2"]
    arguments += ["--target", "q_proj", "--target", "down_proj", "--cache-dir", str(output.parent)]
    return cli.main([*arguments, *flags])
