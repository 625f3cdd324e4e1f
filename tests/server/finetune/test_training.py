"""What is learned: the adapter alone, from the completion's tokens alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lorry_server.errors import ModelError, StartupError
from lorry_server.finetune.adapted_model import (
    MatrixGroup,
    add_adapter,
    load_base,
    matrix_groups,
    num_frozen,
    trained_parameters,
)
from lorry_server.finetune.encoding import Example
from lorry_server.finetune.options import LearningOptions
from lorry_server.finetune.training import Training
from tests.support.tiny_model import write_tiny_model

CPU = torch.device("cpu")
EXAMPLES = [Example((5, 6, 7, 8, 9, 2), 3), Example((11, 12, 2), 1), Example((4, 8, 15, 2), 0)]
OPTIONS = LearningOptions(
    rank=2,
    alpha=4.0,
    dropout=0.0,
    targets=("q_proj", "down_proj"),
    use_dora=False,
    use_rslora=False,
    learning_rate=1e-2,
    num_epochs=None,
    num_steps=20,
    batch_size=3,
    max_length=64,
    learn_prompt=False,
    eval_split=0.0,
    skip_bad_lines=False,
    seed=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def make_training(
    folder: Path, *, held_out: list[Example] | None = None, **changes: Any
) -> Training:
    options = replace(OPTIONS, **changes)
    model = add_adapter(load_base(folder, device=CPU), options)
    return Training(model, EXAMPLES, held_out or [], options, device=CPU)


def cross_entropies(folder: Path, examples: list[Example]) -> list[float]:
    """Of each learned token under the base model, one sequence at a time."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    losses = []
    for example in examples:
        log_probs_TV = torch.log_softmax(base(torch.tensor([example.token_ids])).logits[0], dim=-1)
        losses += [
            -log_probs_TV[position - 1, example.token_ids[position]].item()
            for position in range(max(1, example.learn_from), len(example.token_ids))
        ]
    return losses


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite"])
def test_loss_is_the_mean_cross_entropy_of_the_learned_tokens(family: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, family)
    training = make_training(folder)

    loss = training.advance()  # B is zero, so the first loss is the base model's

    wanted = cross_entropies(folder, EXAMPLES)
    assert len(wanted) == 3 + 2 + 3
    assert loss == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)


def test_held_out_loss_is_the_mean_over_all_their_tokens(folder: Path) -> None:
    training = make_training(folder, held_out=EXAMPLES, batch_size=2)

    loss = training.evaluate()

    wanted = cross_entropies(folder, EXAMPLES)
    assert loss == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert training.held_out_losses == [(0, loss)]


def test_model_that_takes_no_positions_of_its_logits_gives_the_same_loss(folder: Path) -> None:
    plain, whole = make_training(folder), make_training(folder)
    whole._takes_positions = False

    assert whole.advance() == pytest.approx(plain.advance(), rel=1e-5)


def test_steps_lower_the_loss_and_change_nothing_but_the_adapter(folder: Path) -> None:
    training = make_training(folder)
    before = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}

    while not training.is_done:
        training.advance()

    assert training.losses[-1] < 0.5 * training.losses[0]
    changed = {
        name
        for name, tensor in training.model.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == set(trained_parameters(training.model))
    assert all(".lora_A." in name or ".lora_B." in name for name in changed)


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing(folder: Path) -> None:
    training = make_training(folder, num_steps=100)

    rates = [training.learning_rate(step) for step in range(100)]

    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[4] == max(rates)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_epochs_are_passes_over_the_examples(folder: Path) -> None:
    assert make_training(folder, num_steps=None, num_epochs=2.5, batch_size=2).num_steps == 5
    assert make_training(folder, num_steps=None, num_epochs=0.1).num_steps == 1


def test_groups_count_rank_times_inputs_and_outputs(folder: Path) -> None:
    model = make_training(folder).model

    groups = matrix_groups(model)

    assert groups == [
        MatrixGroup("q_proj", 2, 64, 64, rank=2, num_magnitudes=0),
        MatrixGroup("down_proj", 2, 96, 64, rank=2, num_magnitudes=0),
    ]
    assert [group.num_trained for group in groups] == [2 * 2 * 128, 2 * 2 * 160]
    num_base = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert num_frozen(model) == num_base


def test_all_linear_layers_but_the_head_are_adapted_unless_some_are_named(folder: Path) -> None:
    names = [group.name for group in matrix_groups(make_training(folder, targets=()).model)]

    assert sorted(names) == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_dora_trains_a_magnitude_for_each_output_as_well(folder: Path) -> None:
    model = make_training(folder, use_dora=True, targets=("down_proj",)).model

    (group,) = matrix_groups(model)

    assert group.num_magnitudes == 64
    assert group.num_trained == sum(p.numel() for p in trained_parameters(model).values())


def test_unknown_target_is_refused_with_the_layers_that_there_are(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"--target query: .* q_proj, k_proj, .*lm_head"):
        make_training(folder, targets=("q_proj", "query"))


def test_folder_that_transformers_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load the model in"):
        load_base(tmp_path, device=CPU)
