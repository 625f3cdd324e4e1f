"""Tokenizers made on the spot, one of each way to write bytes in a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog and the old captain laughs",
    "system user assistant model end start of turn header id message tool name",
    "hello world, how are you? Fine! 1234567890 (a) [b] {c} <d> |e|",
]
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def byte_level_tokenizer(
    *, control_tokens: tuple[str, ...] = CONTROL_TOKENS, size: int = 420
) -> tokenizers.Tokenizer:
    """A GPT-2 style tokenizer; the control tokens have the ids 0, 1, ..."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(control_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS * 20, trainer)
    return backend


def sentencepiece_tokenizer() -> tokenizers.Tokenizer:
    """A Llama 2 style tokenizer: `▁` for a space, `<0x..>` for characters that it lacks."""
    words = ["▁", "▁▁", "▁a", "▁b", "a", "b", "ab", "é", "h", "i", "▁h", "▁hi"]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    merges = [("▁", "▁"), ("▁", "a"), ("▁", "b"), ("a", "b"), ("▁", "h"), ("▁h", "i")]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={text: token_id for token_id, text in enumerate(vocabulary)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def word_piece_tokenizer() -> tokenizers.Tokenizer:
    """A BERT style tokenizer, whose text is more than the bytes of its tokens."""
    words = ["[UNK]", "the", "dog", "##s", "bark", "##ed", "!", ","]
    vocabulary = {text: token_id for token_id, text in enumerate(words)}
    backend = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def write_tokenizer_folder(
    folder: Path,
    backend: tokenizers.Tokenizer,
    *,
    config: dict[str, Any] | None = None,
    chat_template: str | None = None,
) -> Path:
    """Write what `Tokenizer.from_folder` and `AutoTokenizer` read; return `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    full = {"tokenizer_class": "TokenizersBackend", **(config or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(full))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder
