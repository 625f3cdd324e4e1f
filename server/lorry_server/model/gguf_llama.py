"""Llama in GGUF, without transformers, which needs half a minute of processor time for it.

For models whose text is split by SmolLM's rule: SmolLM2, the default model, among them.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lorry_server.model.gguf_file import GGUFFile
from lorry_server.model.hf_folder import HFFolder

SMOLLM_WORDS = "smollm"
LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
SPECIAL_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def is_plain_llama(file: GGUFFile) -> bool:
    """Whether this module knows all that the file holds: no stretched rotation, no experts."""
    metadata = file.metadata
    return (
        metadata.get("general.architecture") == "llama"
        and metadata.get("tokenizer.ggml.model") == "gpt2"
        and metadata.get("tokenizer.ggml.pre") == SMOLLM_WORDS
        and not metadata.get("tokenizer.ggml.add_bos_token", False)
        and not any(key.startswith("llama.rope.scaling.") for key in metadata)
        and all(_name(name) is not None for name in file.tensor_names)
    )


def convert_llama(file: GGUFFile) -> HFFolder:
    """What a Hugging Face folder of the model holds; `file` must satisfy `is_plain_llama`."""
    return HFFolder(
        config=_config(file),
        tensors=_tensors(file),
        tokenizer=_tokenizer(file),
        special_tokens=_special_tokens(file),
        chat_template=file.metadata.get("tokenizer.chat_template"),
    )


def smollm_words() -> pre_tokenizers.PreTokenizer:
    """The rule that GGUF calls "smollm": each digit is a word, the rest is split as in GPT-2."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


def _config(file: GGUFFile) -> dict[str, Any]:
    """The config.json of a plain Llama."""
    llama = {
        key.removeprefix("llama."): value
        for key, value in file.metadata.items()
        if key.startswith("llama.")
    }
    num_heads = llama["attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(file.metadata["tokenizer.ggml.tokens"]),
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": num_heads,
        "num_key_value_heads": llama.get("attention.head_count_kv", num_heads),
        "head_dim": llama.get("attention.key_length", llama["embedding_length"] // num_heads),
        "hidden_act": "silu",
        "max_position_embeddings": llama["context_length"],
        "rms_norm_eps": llama["attention.layer_norm_rms_epsilon"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": llama.get("rope.freq_base", 10_000.0),
        },
        "tie_word_embeddings": "output.weight" not in file.tensor_names,
        "dtype": "bfloat16",
        **{f"{name}_id": file.metadata[key] for name, key in _special_keys(file).items()},
    }


def _tensors(file: GGUFFile) -> dict[str, torch.Tensor]:
    """The weights in bfloat16 under Hugging Face's names."""
    num_heads = file.metadata["llama.attention.head_count"]
    num_kv_heads = file.metadata.get("llama.attention.head_count_kv", num_heads)
    heads_of = {"attn_q": num_heads, "attn_k": num_kv_heads}
    tensors = {}
    for name in sorted(file.tensor_names):
        values = file.read(name)
        layer = LAYER.fullmatch(name)
        if layer and layer[2] in heads_of:
            values = _pair_halves(values, num_heads=heads_of[layer[2]])
        tensors[str(_name(name))] = torch.from_numpy(values.copy()).bfloat16()
    return tensors


def _tokenizer(file: GGUFFile) -> Tokenizer:
    """Byte-level BPE that takes each digit as a word."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in file.metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = smollm_words()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _special_tokens(file: GGUFFile) -> dict[str, str]:
    """The special tokens by their keys in tokenizer_config.json, "bos_token" and such."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    return {name: tokens[file.metadata[key]] for name, key in _special_keys(file).items()}


def _special_keys(file: GGUFFile) -> dict[str, str]:
    return {name: key for name, key in SPECIAL_TOKENS.items() if key in file.metadata}


def _name(name: str) -> str | None:
    """Hugging Face's name of a tensor, None for one that a plain Llama does not have."""
    layer = LAYER.fullmatch(name)
    if layer is None:
        return OTHER_NAMES.get(name)
    module = LAYER_NAMES.get(layer[2])
    return None if module is None else f"model.layers.{layer[1]}.{module}.weight"


def _pair_halves(values: npt.NDArray[np.float32], *, num_heads: int) -> npt.NDArray[np.float32]:
    """Undo GGUF's order of a head's rows, where rotated pairs are neighbours, not half a head apart."""
    pairs = values.reshape(num_heads, -1, 2, values.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
