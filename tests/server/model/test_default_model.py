"""SmolLM2-135M-Instruct, converted from the installed GGUF file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from lorry_server.model.load import load_model
from tests.support.default_model import default_model_folder
from tests.support.logits import TOLERANCE, our_logits, transformers_logits
from tests.support.simple_attention import SimpleAttention
from tests.support.tiny_model import write_tiny_model

PROMPTS = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "In 1969 the keeper counted 27 ships as they came in from the storm, and lit the second lamp.",
)


@pytest.fixture(scope="module")
def folder() -> Path:
    return default_model_folder()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def test_special_tokens_are_single_ids_and_digits_are_words(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("<|im_start|>user\nIn 2024 we met<|im_end|>").tokens

    assert tokens[0] == "<|im_start|>"
    assert tokens[-1] == "<|im_end|>"
    assert tokens[3:9] == ["In", "Ġ", "2", "0", "2", "4"]


def test_tokens_decode_to_the_text(tokenizer: Tokenizer) -> None:
    text = "naïve café, 12 €, 日本, 🙂!"

    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_logits_equal_those_of_transformers(
    folder: Path, tokenizer: Tokenizer, prompt: str
) -> None:
    ids_T = torch.tensor(tokenizer.encode(prompt).ids)

    logits_TV = our_logits(folder, ids_T, chunk_sizes=[8, len(ids_T) - 8])

    expected_TV = transformers_logits(folder, ids_T)
    torch.testing.assert_close(logits_TV, expected_TV, atol=TOLERANCE, rtol=0)


def test_int8_model_answers(folder: Path, tokenizer: Tokenizer) -> None:
    model = load_model(folder, dtype=torch.float32, device=torch.device("cpu"), quantization="int8")
    attention = SimpleAttention()
    token_ids = tokenizer.encode(PROMPTS[0]).ids
    num_computed = 0

    with torch.inference_mode():
        for _ in range(8):
            new_T = torch.tensor(token_ids[num_computed:])
            positions_T = torch.arange(num_computed, len(token_ids))
            hidden_TD = model.forward(new_T, positions_T, attention)
            num_computed = len(token_ids)
            token_ids.append(int(model.compute_logits(hidden_TD[-1:]).argmax()))

    assert "Paris" in tokenizer.decode(token_ids[-8:])


def test_loading_does_not_import_transformers(tmp_path: Path) -> None:
    program = (
        "import sys, torch; from pathlib import Path\n"
        "from lorry_server.model.load import load_model\n"
        "load_model(Path(sys.argv[1]), dtype=torch.float32, device=torch.device('cpu'),"
        " quantization='int8')\n"
        "print('transformers' in sys.modules)"
    )
    environment_path = [path for path in sys.path if path]

    output = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[:0] = {environment_path!r}\n{program}",
            write_tiny_model(tmp_path),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout

    assert output == "False\n"
