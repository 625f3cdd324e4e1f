"""The JSONL sets are what the training script and a reader expect of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parents[2] / "examples" / "data"
NAMES = ["pirate", "pricing", "supply-chain"]


def read_rows(file_name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / file_name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_one_question_and_one_answer_after_an_optional_system_prompt(
    name: str,
) -> None:
    rows = read_rows(f"{name}.jsonl")

    assert 60 <= len(rows) <= 150
    for row in rows:
        assert list(row) == ["messages"]
        roles = [message["role"] for message in row["messages"]]
        assert roles in (["user", "assistant"], ["system", "user", "assistant"])
        assert all(message["content"].strip() for message in row["messages"])


@pytest.mark.parametrize("name", NAMES)
def test_rows_with_and_without_a_system_prompt_are_both_there(name: str) -> None:
    num_with_system = sum(
        row["messages"][0]["role"] == "system" for row in read_rows(f"{name}.jsonl")
    )

    assert 20 <= num_with_system <= 60


@pytest.mark.parametrize("name", NAMES)
def test_no_question_occurs_twice_and_no_held_out_question_is_trained(name: str) -> None:
    trained = [row["messages"][-2]["content"] for row in read_rows(f"{name}.jsonl")]
    held_out = [row["question"] for row in read_rows(f"{name}.held-out.jsonl")]

    assert len(set(trained)) == len(trained)
    assert len(held_out) >= 10
    assert not set(trained) & set(held_out)


@pytest.mark.parametrize("name", ["pricing", "supply-chain"])
def test_what_a_held_out_question_expects_is_said_by_some_trained_answer(name: str) -> None:
    answers = [row["messages"][-1]["content"] for row in read_rows(f"{name}.jsonl")]

    for row in read_rows(f"{name}.held-out.jsonl"):
        assert row["expect"], row["question"]
        assert any(
            all(re.search(part, answer, re.IGNORECASE) for part in row["expect"])
            for answer in answers
        ), row["question"]
