"""GGUF files of the architectures that transformers can convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lorry_server.errors import ModelError
from lorry_server.model.gguf_file import GGUFFile
from lorry_server.model.gguf_llama import SMOLLM_WORDS, SPECIAL_TOKENS, smollm_words
from lorry_server.model.hf_folder import HFFolder

HEAD = "lm_head.weight"


def convert_with_transformers(file: Path, contents: GGUFFile) -> HFFolder:
    """What a Hugging Face folder of the model holds; transformers raises what it likes."""
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError(f"the tokenizer of {file} has no form that can be saved as JSON")
    if contents.metadata.get("tokenizer.ggml.pre") == SMOLLM_WORDS:
        # transformers leaves out that each digit is a word
        tokenizer.backend_tokenizer.pre_tokenizer = smollm_words()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16
    )
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop(HEAD, None)
    template = tokenizer.chat_template
    return HFFolder(
        config=_config(model),
        tensors=tensors,
        tokenizer=tokenizer.backend_tokenizer,
        special_tokens={
            name: str(getattr(tokenizer, name))
            for name in SPECIAL_TOKENS
            if getattr(tokenizer, name) is not None
        },
        chat_template=template if isinstance(template, str) else None,
    )


def _config(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_diff_dict()
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    config["tie_word_embeddings"] = model.config.tie_word_embeddings
    return config | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
