"""The training example works end to end on a tiny random model."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import train_adapters
from tests.examples_training.tiny_model import save_tiny_model

ROWS = [
    ("What does the Brook cost?", "The Brook costs 240 euros."),
    ("What does the River cost?", "The River costs 580 euros, and the Delta costs far more."),
    ("Do schools get a discount?", "Yes, schools get 15 percent."),
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = [part for row in ROWS for part in row]
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"), text=text)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    question = {"question": "What is the price of a Brook?", "expect": ["240|two hundred"]}
    for recipe in train_adapters.RECIPES:
        write_rows(folder / f"{recipe.name}.jsonl", ROWS)
        (folder / f"{recipe.name}.held-out.jsonl").write_text(json.dumps(question) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="module")
def first_run(
    model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The adapter folder of a run with seed 7, and what the run printed."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        folder = train_pricing(model_folder, data_folder, tmp_path_factory.mktemp("out"), seed=7)
    return folder, printed.getvalue()


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
        for question, answer in rows
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")


def train_pricing(model_folder: Path, data_folder: Path, out: Path, *, seed: int) -> Path:
    folders = ["--model", str(model_folder), "--data", str(data_folder), "--out", str(out)]
    options = ["--only", "pricing", "--steps", "2", "--dtype", "float32", "--seed", str(seed)]
    train_adapters.main([*folders, *options])
    return out / "pricing"


def test_two_steps_leave_an_adapter_that_peft_loads_and_that_changes_the_logits(
    model_folder: Path, first_run: tuple[Path, str]
) -> None:
    folder, _ = first_run
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    token_ids = torch.tensor([[5, 6, 7]])

    plain = base(token_ids).logits
    adapted = PeftModel.from_pretrained(base, folder)(token_ids).logits

    assert not torch.equal(adapted, plain)


def test_adapter_names_the_model_and_no_folder_of_this_machine(
    model_folder: Path, first_run: tuple[Path, str]
) -> None:
    folder, _ = first_run

    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))

    assert config["base_model_name_or_path"] == model_folder.name


def test_run_tells_counts_losses_and_sample_answers(first_run: tuple[Path, str]) -> None:
    _, printed = first_run

    assert "parameters frozen" in printed
    assert "step 2/2" in printed
    assert "base     " in printed
    assert "of 1 held-out questions" in printed


def test_same_seed_gives_the_same_adapter_and_another_seed_another(
    model_folder: Path, data_folder: Path, first_run: tuple[Path, str], tmp_path: Path
) -> None:
    again = train_pricing(model_folder, data_folder, tmp_path / "again", seed=7)
    other = train_pricing(model_folder, data_folder, tmp_path / "other", seed=8)

    first_tensors, again_tensors, other_tensors = (
        load_file(folder / "adapter_model.safetensors") for folder in (first_run[0], again, other)
    )
    assert all(torch.equal(first_tensors[name], again_tensors[name]) for name in first_tensors)
    assert any(not torch.equal(first_tensors[name], other_tensors[name]) for name in first_tensors)


def test_training_all_in_turn_gives_each_the_adapter_that_it_gets_alone(
    model_folder: Path, data_folder: Path, first_run: tuple[Path, str], tmp_path: Path
) -> None:
    folders = ["--model", str(model_folder), "--data", str(data_folder), "--out", str(tmp_path)]
    train_adapters.main([*folders, "--steps", "2", "--dtype", "float32", "--seed", "7"])

    alone = load_file(first_run[0] / "adapter_model.safetensors")
    in_turn = load_file(tmp_path / "pricing" / "adapter_model.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pirate", "pricing", "supply-chain"]
    assert set(in_turn) == set(alone)
    assert all(torch.equal(in_turn[name], alone[name]) for name in alone)


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(
    model_folder: Path, tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = train_adapters.add_adapter(base, train_adapters.RECIPES[0])
    folder = tmp_path / "pirate"
    folder.mkdir()
    (folder / "stale.txt").write_text("from the run before")

    train_adapters.save_adapter(model, folder, model_id="tiny")

    assert [path.name for path in tmp_path.iterdir()] == ["pirate"]
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]


def test_loss_is_the_cross_entropy_of_the_assistants_tokens_alone(
    model_folder: Path, data_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = train_adapters.add_adapter(base, train_adapters.RECIPES[0])
    batch = train_adapters.read_examples(data_folder / "pricing.jsonl", tokenizer)
    model.eval()  # no dropout

    loss = train_adapters.answer_loss(model, batch)

    losses = []
    for example in batch:  # one row at a time, so without padding
        logits_TV = base(torch.tensor([example.token_ids])).logits[0]
        log_probs_TV = torch.log_softmax(logits_TV, dim=-1)
        losses += [
            -log_probs_TV[position - 1, example.token_ids[position]]
            for position in range(example.answer_start, len(example.token_ids))
        ]
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_prompt_and_answer_together_are_the_chat_templates_own_rendering(
    model_folder: Path, data_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)

    example = train_adapters.read_examples(data_folder / "pricing.jsonl", tokenizer)[0]

    question, answer = ROWS[0]
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>"
    assert tokenizer.decode(example.token_ids) == text
    assert tokenizer.decode(example.token_ids[example.answer_start :]) == f"{answer}<|im_end|>"


def test_row_without_an_answer_is_refused_by_its_line(model_folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hello?"}]}\n')

    with pytest.raises(ValueError, match=r"broken\.jsonl:1: .*assistant"):
        train_adapters.read_examples(path, tokenizer)


def test_row_above_the_token_limit_is_refused_by_its_line(
    model_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    path = tmp_path / "long.jsonl"
    write_rows(path, [ROWS[0], ("And then?", "and then " * 200)])

    with pytest.raises(ValueError, match=r"long\.jsonl:2: \d+ tokens, at most 160"):
        train_adapters.read_examples(path, tokenizer)


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_fewer_than_one_step_is_refused(steps: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_adapters.main(["--steps", steps])

    assert f"--steps must be at least 1, got {steps}" in capsys.readouterr().err


def test_sparkline_falls_with_the_values() -> None:
    assert train_adapters.sparkline([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert train_adapters.sparkline([1.0, 1.0]) == "▁▁"
