"""What the family does on decoders that are transformers' own: all but embeddings and norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from lorry_server.engine.request import Request, SamplingParams
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.pool import AdapterPool
from lorry_server.model.load import load_model
from tests.support.engines import run_to_end
from tests.support.peft_alone import continue_alone
from tests.support.tiny_adapters import FAMILY, write_adapter, write_unlike_adapters
from tests.support.tiny_engine import CPU, make_tiny_engine

SERVED = ("dora", "lora-bias", "bias-lora-only", "head", "head-saved", "linear-saved")
LINEARS = {"target_modules": ["q_proj", "v_proj"]}  # which all of these have


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starcoder 2, whose linears have biases and whose head is tied to the embedding."""
    folder = tmp_path_factory.mktemp("model")
    config = transformers.Starcoder2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = transformers.Starcoder2ForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return folder


def test_each_row_of_a_mixed_batch_equals_peft_alone(folder: Path, tmp_path: Path) -> None:
    configs = {name: FAMILY[name] | ({} if "head" in name else LINEARS) for name in SERVED}
    adapters = write_unlike_adapters(folder, tmp_path, configs)
    tiny = make_tiny_engine(folder, adapters=adapters, max_num_batched_tokens=1024)
    alone = {name: continue_alone(folder, path, name, count=3) for name, path in adapters.items()}

    params = SamplingParams(max_tokens=3, temperature=0.0)
    for name, one in alone.items():
        tiny.engine.add(Request(name, tuple(one.prompt), params, adapter=tiny.digests[name]))
    run_to_end(tiny.engine)

    rows = torch.stack(tiny.model.logits).view(3, len(alone), -1)
    for index, (name, one) in enumerate(alone.items()):
        assert (rows[:, index] - one.logits).abs().max() <= 1e-3, name


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("embedding", "embed_tokens"),
        ("embedding-saved", "embed_tokens"),
        ("tokens", "embed_tokens"),
        ("bias-all", "norm"),
    ],
)
def test_what_changes_embedding_or_norms_is_named(
    folder: Path, tmp_path: Path, name: str, word: str
) -> None:
    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="none")
    pool = AdapterPool(
        model.linears(),
        dtype=torch.float32,
        device=CPU,
        norms=model.norms(),
        embedding=model.embedding,
        base=model.base_weights,
    )
    config = FAMILY[name] | (LINEARS if name == "bias-all" else {})
    adapter = write_adapter(folder, tmp_path, seed=1, **config)

    prepared = pool.prepare(read_adapter(adapter))

    assert prepared.unmatched
    for unmatched in prepared.unmatched:
        assert word in unmatched
