"""Writes the tiny Llama as a GGUF file, as llama.cpp's converter would."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from safetensors.torch import load_file

from tests.support.tiny_model import (
    CHAT_TEMPLATE,
    MERGES,
    SPECIAL_TOKENS,
    tiny_tokenizer,
    write_tiny_model,
)

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
NUM_HEADS = {"attn_q": 4, "attn_k": 2}


def write_tiny_gguf(file: Path, *, original: Path) -> Path:
    """Write a tiny Llama to the folder `original`, and as GGUF (float32) to `file`; returns it."""
    write_tiny_model(original)
    tokenizer = tiny_tokenizer()
    num_tokens = tokenizer.get_vocab_size()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(2)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    padding = [f"<unused{index}>" for index in range(64)]
    writer.add_token_list([str(tokenizer.id_to_token(i)) for i in range(num_tokens)] + padding)
    num_special = len(SPECIAL_TOKENS)
    kinds = [gguf.TokenType.CONTROL] * num_special
    kinds += [gguf.TokenType.NORMAL] * (num_tokens - num_special)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(padding))
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in load_file(original / "model.safetensors").items():
        writer.add_tensor(*_renamed(name, tensor.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _renamed(name: str, values: npt.NDArray[np.float32]) -> tuple[str, npt.NDArray[np.float32]]:
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layer is None:
        return f"{NAMES[name.removesuffix('.weight')]}.weight", values
    short = NAMES[layer[2]]
    if short in NUM_HEADS:  # the two halves of a head's rows are interleaved
        halves = values.reshape(NUM_HEADS[short], 2, -1, values.shape[1])
        values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return f"blk.{layer[1]}.{short}.weight", values
