"""`Contract`: an adapter's own defaults and limits, from the `lorry.json` in its folder.

It is read when the adapter is, so a mistake in it is a refused load with the field's name, not a
surprise in a request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lorry.types.common import MAX_STOP_BYTES, MAX_STOP_STRINGS
from lorry.types.contract import AdapterContract, SamplingDefaults, TemplateFile
from lorry_server.errors import AdapterError, ModelError, RequestError
from lorry_server.lora.adapter_files import SIDECAR_FILE, TEMPLATE_FILE
from lorry_server.text.chat_template import ChatTemplate

MAX_CONTRACT_BYTES = 256 * 1024
MAX_TEMPLATE_BYTES = 256 * 1024
MAX_PROMPT_CHARS = 64 * 1024
MAX_DESCRIPTION_CHARS = 4096
# A template is a stranger's program; whoever writes an honest one needs about a millisecond.
MAX_RENDER_S = 1.0
SYSTEM_ROLES = ("system", "developer")

_DEFAULTS = ("sampling", "stop", "max_tokens", "max_tokens_ceiling")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Contract:
    """What holds for requests on one adapter. `template` replaces the model's, None keeps it."""

    description: str | None = None
    system_prompt: str | None = None
    template: ChatTemplate | None = None
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    max_tokens_ceiling: int | None = None
    base_fingerprint: str | None = None

    def card(self) -> dict[str, Any]:
        """What is shown of it: everything that is set, of a template only that there is one."""
        shown: dict[str, Any] = {
            "description": self.description,
            "system_prompt": self.system_prompt,
            "chat_template": True if self.template is not None else None,
            "sampling": msgspec.to_builtins(self.sampling) or None,
            "stop": list(self.stop) or None,
            "max_tokens": self.max_tokens,
            "max_tokens_ceiling": self.max_tokens_ceiling,
            "base_fingerprint": self.base_fingerprint,
        }
        return {name: value for name, value in shown.items() if value is not None}

    def defaults(self) -> dict[str, Any]:
        """What a request gets that says nothing, and what it cannot exceed."""
        card = self.card()
        return {name: card[name] for name in _DEFAULTS if name in card}

    def with_system_prompt(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """`messages` with the system prompt first, unless they bring one of their own."""
        if self.system_prompt is None or any(
            message.get("role") in SYSTEM_ROLES for message in messages
        ):
            return list(messages)
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def try_on(self, model_template: ChatTemplate | None) -> None:
        """Render one short chat as requests will have it; raises AdapterError where that fails."""
        template = self.template or model_template
        if template is None:
            if self.system_prompt is not None:
                raise AdapterError(
                    f"{SIDECAR_FILE}: system_prompt needs a chat template, and neither the model "
                    "nor the adapter has one"
                )
            return
        messages = self.with_system_prompt([{"role": "user", "content": "Hello"}])
        try:
            template.render(messages, add_generation_prompt=True)
        except RequestError as exc:
            tried = "a user's message"
            if self.system_prompt is not None:
                tried = "its system_prompt and a user's message"
            raise AdapterError(f"{SIDECAR_FILE}: tried with {tried}: {exc}") from exc


def read_contract(folder: Path, *, tokens: Mapping[str, str] | None = None) -> Contract | None:
    """The contract in an adapter's folder, None where there is none.

    `tokens` are the special tokens of the model (`bos_token` and such), for the adapter's template
    to write. Raises AdapterError that names the field, and for a template the line.
    """
    file = folder / SIDECAR_FILE
    raw = _read_bounded(file, MAX_CONTRACT_BYTES)
    if raw is None:
        return None
    try:
        loaded = json.loads(
            raw, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
        written = msgspec.convert(loaded, AdapterContract)
    except msgspec.ValidationError as exc:
        raise AdapterError(f"{str(file)!r}: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise AdapterError(f"{str(file)!r} is not valid JSON: {exc}") from exc
    _check(written, file)
    return Contract(
        description=written.description,
        system_prompt=written.system_prompt or None,
        template=_template(written.chat_template, file, tokens or {}),
        sampling=written.sampling or SamplingDefaults(),
        stop=tuple(written.stop or ()),
        max_tokens=written.max_tokens,
        max_tokens_ceiling=written.max_tokens_ceiling,
        base_fingerprint=written.base_fingerprint,
    )


def _check(written: AdapterContract, file: Path) -> None:
    def refuse(name: str, reason: str) -> None:
        raise AdapterError(f"{str(file)!r}: `{name}` {reason}")

    if len(written.description or "") > MAX_DESCRIPTION_CHARS:
        refuse("description", f"has more than {MAX_DESCRIPTION_CHARS} characters")
    if len(written.system_prompt or "") > MAX_PROMPT_CHARS:
        refuse("system_prompt", f"has more than {MAX_PROMPT_CHARS} characters")
    stop = written.stop or []
    if len(stop) > MAX_STOP_STRINGS:
        refuse("stop", f"may hold at most {MAX_STOP_STRINGS} strings, not {len(stop)}")
    texts = {
        "description": [written.description or ""],
        "system_prompt": [written.system_prompt or ""],
        "stop": stop,
    }
    for name, values in texts.items():
        if any(_HALF_SURROGATE.search(text) for text in values):
            refuse(name, "holds half a surrogate pair, which is no text")
    if any(not 1 <= len(text.encode()) <= MAX_STOP_BYTES for text in stop):
        refuse("stop", f"strings have 1 to {MAX_STOP_BYTES} bytes")
    limit, ceiling = written.max_tokens, written.max_tokens_ceiling
    if limit is not None and ceiling is not None and limit > ceiling:
        refuse("max_tokens", f"({limit}) is more than `max_tokens_ceiling` ({ceiling})")
    fingerprint = written.base_fingerprint
    if fingerprint is not None and _FINGERPRINT.fullmatch(fingerprint) is None:
        refuse("base_fingerprint", "must be two times 16 hexadecimal digits with '-' between")


def _template(
    written: str | TemplateFile | None, contract_file: Path, tokens: Mapping[str, str]
) -> ChatTemplate | None:
    if written is None:
        return None
    where = f"{str(contract_file)!r}: `chat_template`"
    source = written if isinstance(written, str) else _template_file(written, contract_file)
    try:
        return ChatTemplate(source, tokens=tokens, owner="the adapter", max_render_s=MAX_RENDER_S)
    except ModelError as exc:
        raise AdapterError(f"{where}: {exc}") from exc


def _template_file(written: TemplateFile, contract_file: Path) -> str:
    where = f"{str(contract_file)!r}: `chat_template.file`"
    file = contract_file.parent / written.file
    # The one name that sources bring along, and no link to another place.
    if written.file != TEMPLATE_FILE or file.is_symlink():
        raise AdapterError(f"{where} must be {TEMPLATE_FILE!r}, a file beside it")
    raw = _read_bounded(file, MAX_TEMPLATE_BYTES)
    if raw is None:
        raise AdapterError(f"{where}: there is no {written.file!r}")
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise AdapterError(f"{where}: {written.file!r} is not UTF-8: {exc}") from exc


def _read_bounded(file: Path, max_bytes: int) -> bytes | None:
    if not file.is_file():  # nor a FIFO, which would be waited for
        return None
    try:
        with file.open("rb") as opened:
            raw = opened.read(max_bytes + 1)
    except OSError as exc:
        raise AdapterError(f"{str(file)!r} cannot be read: {exc.strerror}") from exc
    if len(raw) > max_bytes:
        raise AdapterError(f"{str(file)!r} is larger than {max_bytes} bytes")
    return raw


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"the key {name[:64]!r} is there twice")
        values[name] = value
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")
