"""`Tokenizer`: text to token ids and back, over the `tokenizers` library alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import tokenizers

from lorry.types.lorax import TokenSpan
from lorry_server.errors import ModelError, RequestError
from lorry_server.text.model_json import read_model_json, token_text_in
from lorry_server.text.token_bytes import TokenBytes

# Any of these can be converted to a tokenizer.json.
OLD_VOCABULARIES = ("tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
BYTES_CACHE_SIZE = 65536


class Tokenizer:
    """A model's tokenizer. All methods may be called from several threads at once."""

    def __init__(self, backend: tokenizers.Tokenizer, *, eos_token_ids: tuple[int, ...]) -> None:
        # A limit written into the file would cut prompts without a word.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._eos_token_ids = eos_token_ids
        added = backend.get_added_tokens_decoder()
        self._added_token_ids = frozenset(added)
        self._added_special_token_ids = frozenset(
            token_id for token_id, token in added.items() if token.special
        )
        self._special_token_ids = self._added_special_token_ids | frozenset(eos_token_ids)
        self._bytes = TokenBytes(backend)
        self._cached_bytes = lru_cache(maxsize=BYTES_CACHE_SIZE)(self._bytes.__getitem__)
        self._cached_text = lru_cache(maxsize=BYTES_CACHE_SIZE)(self._decode_alone)

    @classmethod
    def from_folder(cls, path: str | Path) -> Tokenizer:
        """Read the tokenizer of the model in `path`; raise `ModelError` when it has none."""
        folder = Path(path)
        backend = load_backend(folder)
        return cls(backend, eos_token_ids=read_eos_token_ids(folder, backend=backend))

    @property
    def backend(self) -> tokenizers.Tokenizer:
        return self._backend

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer: those that any of the model's configurations names."""
        return self._eos_token_ids

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Tokens that steer the model: those marked special, and those that end an answer."""
        return self._special_token_ids

    @property
    def added_special_token_ids(self) -> frozenset[int]:
        """Tokens marked special, which `skip_special_tokens` leaves out of text."""
        return self._added_special_token_ids

    @property
    def added_token_ids(self) -> frozenset[int]:
        """Tokens that are found in text before it is split: marked special or not."""
        return self._added_token_ids

    @property
    def bytes_are_text(self) -> bool:
        """Whether the text of a sequence is its `token_bytes`, one after another, as UTF-8."""
        return self._bytes.is_whole_text

    @property
    def drops_first_space(self) -> bool:
        """Whether `decode` leaves out a space that begins the text."""
        return self._bytes.drops_first_space

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`, in which the text of a special token means that token.

        `add_special_tokens` puts what the model expects around every text (often a
        beginning-of-text token). Raises `RequestError` for text that is not valid Unicode.
        """
        return self._encoding(text, add_special_tokens=add_special_tokens).ids

    def encode_spans(self, text: str, *, add_special_tokens: bool = True) -> list[TokenSpan]:
        """Return the ids of `text` with the characters that each stands for.

        Tokens that `add_special_tokens` puts there are empty spans at 0.
        """
        encoding = self._encoding(text, add_special_tokens=add_special_tokens)
        return [
            TokenSpan(id=token_id, text=text[start:stop], start=start, stop=stop)
            for token_id, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def encode_plain(self, text: str) -> list[int]:
        """Return the ids of `text` as ordinary text, whatever it says.

        The text of an added token is spelt out, so the result steers nothing. Raises
        `RequestError` in the case, possible in some vocabularies, that a special token's text
        has no other spelling.
        """
        ids: list[int] = []
        for piece in self._pieces(text):
            ids.extend(token.id for token in self._backend.model.tokenize(piece))
        forged = self.special_token_ids.intersection(ids)
        if forged:
            names = ", ".join(repr(self.token_text(token_id)) for token_id in sorted(forged))
            raise RequestError(f"text must not contain the control tokens {names} of this model")
        return ids

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """Return the text of one token by itself, U+FFFD in place of half a character."""
        return self.token_bytes(token_id).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, its leading space included; empty for an unused id."""
        return self._cached_bytes(token_id)

    def whole_text(self, token_id: int) -> str | None:
        """Return the text of one token by itself, None if its bytes are not whole characters."""
        return self._cached_text(token_id)

    def _decode_alone(self, token_id: int) -> str | None:
        try:
            return self.token_bytes(token_id).decode()
        except UnicodeDecodeError:
            return None

    def _encoding(self, text: str, *, add_special_tokens: bool) -> tokenizers.Encoding:
        refuse_lone_surrogates(text)
        return self._backend.encode(text, add_special_tokens=add_special_tokens)

    def _pieces(self, text: str) -> list[str]:
        """Normalise and split `text` as the backend does once the added tokens are cut out."""
        refuse_lone_surrogates(text)
        if not text:
            return []
        if self._backend.normalizer is not None:
            text = self._backend.normalizer.normalize_str(text)
        if self._backend.pre_tokenizer is None:
            return [text]
        return [piece for piece, _ in self._backend.pre_tokenizer.pre_tokenize_str(text)]


def refuse_lone_surrogates(text: str) -> None:
    """Raise `RequestError` for text that has no UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise RequestError(
            f"text is not valid Unicode: character {exc.start} is half of a surrogate pair"
        ) from exc


def load_backend(folder: Path) -> tokenizers.Tokenizer:
    """Read `tokenizer.json`, or convert an older vocabulary through transformers."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return convert_old_vocabulary(folder)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises bare Exception for every broken file
        raise ModelError(f"{path} is not a tokenizer that can be read: {exc}") from exc


def convert_old_vocabulary(folder: Path) -> tokenizers.Tokenizer:
    if not any((folder / name).is_file() for name in OLD_VOCABULARIES):
        names = ", ".join(OLD_VOCABULARIES)
        raise ModelError(f"{folder} has no tokenizer.json, and none of {names} to make it from")
    # Imported here because it takes seconds, and hardly any model needs it.
    from transformers import AutoTokenizer

    try:
        converted = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as exc:
        raise ModelError(f"the vocabulary in {folder} cannot be converted: {exc}") from exc
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelError(
            f"the vocabulary in {folder} cannot be converted: {type(converted).__name__} "
            "has no tokenizer.json form"
        )
    return backend


def read_eos_token_ids(folder: Path, *, backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Return every end token that generation_config, config and tokenizer_config name."""
    found: dict[int, None] = {}  # a set that keeps its order
    for name in ("generation_config.json", "config.json"):
        entry = read_model_json(folder / name).get("eos_token_id")
        ids = entry if isinstance(entry, list) else [entry]
        for token_id in ids:
            if token_id is None:
                continue
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise ModelError(f"{folder / name}: eos_token_id must be integers, not {entry!r}")
            found[token_id] = None
    text = token_text_in(read_model_json(folder / "tokenizer_config.json").get("eos_token"))
    token_id = None if text is None else backend.token_to_id(text)
    if token_id is not None:
        found[token_id] = None
    return tuple(found)
