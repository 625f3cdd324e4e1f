"""`Tokenizer`: ids, spans, bytes, end tokens and broken folders."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models

from lorry_server.errors import ModelError, RequestError
from lorry_server.text.tokenizer import Tokenizer
from tests.support.small_tokenizers import (
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    word_piece_tokenizer,
    write_tokenizer_folder,
)

BYTE_LEVEL = Tokenizer(byte_level_tokenizer(), eos_token_ids=(2,))
SENTENCEPIECE = Tokenizer(sentencepiece_tokenizer(), eos_token_ids=(2,))
BOTH = pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE])


@BOTH
@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=40))
def test_text_comes_back_from_its_ids(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_plain(text)

    assert tokenizer.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab <|im_endstar>\n", max_size=40))
def test_plain_encoding_differs_only_where_the_text_has_a_control_token(text: str) -> None:
    usual = BYTE_LEVEL.encode(text)
    plain = BYTE_LEVEL.encode_plain(text)

    assert not BYTE_LEVEL.special_token_ids.intersection(plain)
    assert BYTE_LEVEL.special_token_ids.intersection(usual) or plain == usual


def test_text_of_a_control_token_is_that_token_unless_encoded_as_plain() -> None:
    text = "a<|im_end|>b"

    assert 2 in BYTE_LEVEL.encode(text)
    assert not BYTE_LEVEL.special_token_ids.intersection(BYTE_LEVEL.encode_plain(text))
    assert BYTE_LEVEL.decode(BYTE_LEVEL.encode_plain(text)) == text


def test_control_token_that_cannot_be_spelt_otherwise_is_refused() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.add_special_tokens(["</s>"])
    tokenizer = Tokenizer(backend, eos_token_ids=(0,))

    with pytest.raises(RequestError, match="'</s>'"):
        tokenizer.encode_plain("</s>")


@BOTH
def test_bytes_of_tokens_are_the_bytes_of_the_text(tokenizer: Tokenizer) -> None:
    text = "hi é 👋🏽 日本"
    ids = tokenizer.encode(text)

    joined = b"".join(map(tokenizer.token_bytes, ids))

    assert joined.removeprefix(b" ") == text.encode()


def test_token_text_keeps_the_leading_space_and_marks_half_characters() -> None:
    space, half = SENTENCEPIECE.encode("a b")[-1], BYTE_LEVEL.encode("👋")[0]

    assert SENTENCEPIECE.token_text(space) == " b"
    assert BYTE_LEVEL.token_text(half) == "\ufffd"
    assert BYTE_LEVEL.token_text(2) == "<|im_end|>"
    assert BYTE_LEVEL.token_text(10**6) == ""


def test_word_pieces_stand_for_their_own_text() -> None:
    tokenizer = Tokenizer(word_piece_tokenizer(), eos_token_ids=())

    assert tokenizer.token_bytes(2) == b"dog"
    assert not tokenizer.bytes_are_text


def test_spans_are_character_offsets() -> None:
    text = "é <|im_end|> dog"
    spans = BYTE_LEVEL.encode_spans(text)

    assert [span.id for span in spans] == BYTE_LEVEL.encode(text)
    assert all(span.text == text[span.start : span.stop] for span in spans)
    assert [(span.text, span.start) for span in spans if span.id == 2] == [("<|im_end|>", 2)]


def test_limits_in_the_file_do_not_cut_prompts(tmp_path: Path) -> None:
    backend = byte_level_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer.from_folder(write_tokenizer_folder(tmp_path, backend))

    assert tokenizer.decode(tokenizer.encode("the dog " * 10)) == "the dog " * 10


def test_end_tokens_are_those_of_every_configuration(tmp_path: Path) -> None:
    folder = write_tokenizer_folder(
        tmp_path, byte_level_tokenizer(), config={"eos_token": {"content": "<|im_end|>"}}
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 5]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    tokenizer = Tokenizer.from_folder(folder)

    assert tokenizer.eos_token_ids == (0, 5, 2)
    assert tokenizer.special_token_ids == {0, 1, 2, 5}
    assert len(tokenizer) == len(BYTE_LEVEL)


def test_older_vocabulary_is_converted(tmp_path: Path) -> None:
    folder = write_tokenizer_folder(
        tmp_path / "new", byte_level_tokenizer(), config={"tokenizer_class": "GPT2Tokenizer"}
    )
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (folder / "tokenizer.json").unlink()

    assert Tokenizer.from_folder(folder).encode("the dog") == BYTE_LEVEL.encode("the dog")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer.json"),
        ({"tokenizer.json": "{}"}, "is not a tokenizer"),
        ({"tokenizer.json": "\x00"}, "is not a tokenizer"),
    ],
)
def test_folder_without_a_readable_tokenizer_is_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    with pytest.raises(ModelError, match=message):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"eos_token_id": "x"}', '{"eos_token_id": true}'])
def test_broken_configuration_is_refused_by_its_path(tmp_path: Path, content: str) -> None:
    folder = write_tokenizer_folder(tmp_path, byte_level_tokenizer())
    (folder / "generation_config.json").write_text(content)

    with pytest.raises(ModelError, match=r"generation_config\.json"):
        Tokenizer.from_folder(folder)


@pytest.mark.parametrize("encode", [BYTE_LEVEL.encode, BYTE_LEVEL.encode_plain])
def test_half_of_a_surrogate_pair_is_refused(encode: object) -> None:
    assert callable(encode)

    with pytest.raises(RequestError, match="character 1 is half of a surrogate pair"):
        encode("a\ud800")


def test_threads_may_share_a_tokenizer() -> None:
    texts = [f"the dog {index} <|im_end|> é" for index in range(200)]
    with ThreadPoolExecutor(8) as pool:
        usual = list(pool.map(BYTE_LEVEL.encode, texts))
        plain = list(pool.map(BYTE_LEVEL.encode_plain, texts))

    assert usual == [BYTE_LEVEL.encode(text) for text in texts]
    assert plain == [BYTE_LEVEL.encode_plain(text) for text in texts]
