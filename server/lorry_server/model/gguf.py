"""Converts a GGUF file once to a Hugging Face folder in the cache, from which later starts load.

transformers reads the file, which takes tens of seconds; the folder is loaded without it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorry_server.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str], None]
Writer = Callable[[Path, Path, Progress], None]

MAGIC = b"GGUF"
# what the readers of GGUF raise for damaged files and for architectures they do not know
UNREADABLE = (ValueError, KeyError, IndexError, NotImplementedError, OSError, struct.error)
FORMAT = 1  # of the folders written here; part of their names
NUM_SAMPLES = 64
SAMPLE_BYTES = 65536
SMOLLM_WORDS = "smollm"  # the rule by which text is split, as the file names it
WEIGHTS = "model.safetensors"
HEAD = "lm_head.weight"


def convert_gguf(
    file: Path, *, cache_dir: Path, progress: Progress, write: Writer | None = None
) -> Path:
    """The converted folder of `file`, made if the cache does not have it.

    The folder appears whole or not at all, also when two processes convert at once: the first to
    finish wins. `write` replaces what fills the folder. Raises `ModelError` for a file that is not GGUF or whose architecture transformers
    cannot convert.
    """
    folder = converted_folder(file, cache_dir=cache_dir)
    if folder.is_dir():
        return folder
    progress(f"converting {file.name}, once, to {folder}")
    with _appearing_whole(folder) as unfinished:
        (write or write_converted)(file, unfinished, progress)
    progress("conversion done")
    return folder


def converted_folder(file: Path, *, cache_dir: Path) -> Path:
    """Where the conversion of `file` is kept; the name changes with the file's contents."""
    return cache_dir / "models" / f"{file.stem}-{_fingerprint(file)}"


def _fingerprint(file: Path) -> str:
    """Of the size and of samples spread over the file: reading all of it could take a minute."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with file.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{file} is not a GGUF file: it does not begin with 'GGUF'")
            size = os.fstat(stream.fileno()).st_size
            digest.update(f"{FORMAT}:{size}".encode())
            last_start = max(0, size - SAMPLE_BYTES)
            for index in range(NUM_SAMPLES):
                stream.seek(last_start * index // (NUM_SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    except OSError as exc:
        raise ModelError(f"cannot read {file}: {exc.strerror}") from exc
    return digest.hexdigest()


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the name `folder` once it is safe on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            _sync(path)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # another process was first, and made the same
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_converted(file: Path, folder: Path, progress: Progress) -> None:
    """Write weights in bfloat16, tokenizer and configuration of `file` to the empty `folder`."""
    # these take seconds to import, and only a first start converts
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        progress("reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        progress("reading and dequantizing the weights")
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16
        )
    except UNREADABLE as exc:
        raise ModelError(f"transformers cannot convert {file}: {exc}") from exc
    progress("writing the converted model")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop(HEAD, None)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = _config(model)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", _only(config, "_token_id"))
    _write_tokenizer(tokenizer, folder, metadata=_metadata(file))


def _config(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = model.config.to_diff_dict()
    for key in ("_name_or_path", "_model_name_or_path", "quantization_config"):
        config.pop(key, None)
    config["tie_word_embeddings"] = model.config.tie_word_embeddings
    return config | {"architectures": [type(model).__name__], "dtype": "bfloat16"}


def _only(config: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.endswith(suffix)}


def _metadata(file: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    keys = ("tokenizer.ggml.pre", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type")
    return {key: fields[key].contents() for key in keys if key in fields}


def _write_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: Path, *, metadata: Mapping[str, Any]
) -> None:
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError("the tokenizer of this GGUF file has no form that can be saved as JSON")
    backend: Tokenizer = tokenizer.backend_tokenizer
    _split_words(backend, metadata.get("tokenizer.ggml.pre"))
    _check_special_tokens(backend, metadata)
    backend.save(str(folder / "tokenizer.json"))
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    special = {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name)}
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        | special,
    )
    if isinstance(tokenizer.chat_template, str):
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def _split_words(backend: Tokenizer, rule: str | None) -> None:
    from tokenizers import pre_tokenizers

    if rule == SMOLLM_WORDS:
        # transformers leaves out that each digit is a word
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def _check_special_tokens(backend: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Makes every control token of the file one token in text, whatever transformers did."""
    from gguf import TokenType
    from tokenizers import AddedToken

    tokens = metadata.get("tokenizer.ggml.tokens", [])
    types = metadata.get("tokenizer.ggml.token_type", [])
    control = [
        token for token, kind in zip(tokens, types, strict=False) if kind == TokenType.CONTROL
    ]
    backend.add_special_tokens([AddedToken(token, special=True) for token in control])
    for token in control:
        ids = backend.encode(token, add_special_tokens=False).ids
        if ids != [backend.token_to_id(token)]:
            raise ModelError(f"the tokenizer splits the special token {token!r} into {ids}")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
