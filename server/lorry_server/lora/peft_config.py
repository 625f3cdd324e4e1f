"""`PeftConfig`: what an `adapter_config.json` says, with refusals by name.

Whatever it asks for and this server does not compute is refused, because an adapter that is applied
in part gives wrong answers in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lorry_server.errors import AdapterError
from lorry_server.lora.adapter_files import CONFIG_FILE
from lorry_server.lora.module_patterns import MAX_PATTERN, first_match, is_plain

MAX_CONFIG_BYTES = 1 << 20
MAX_ALPHA = 1e9  # times any sensible B it stays far from float32's end
MAX_TRAINED_TOKENS = 1 << 20

# Initialisations that take something away from the base weights; PEFT's names for them. Of the
# first, what they took can be computed from the base weights; of the others it cannot.
COMPUTABLE_INITS = ("pissa", "olora")
_LOST_INITS = ("pissa", "corda", "lora_ga")
_CONVERT = (
    "it changed the base weights while it was trained, and the folder does not say how; save it as "
    "plain LoRA with model.save_pretrained(folder, path_initial_model_for_weight_conversion=initial)"
    " where initial is the adapter as it was before training"
)
_UNSUPPORTED = (
    "use_qalora",
    "use_bdlora",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
_BIASES = ("none", "all", "lora_only")


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """A checked configuration; `raw` is the whole of it, as it stands in the file."""

    raw: Mapping[str, Any]
    num_bytes: int
    alpha: float
    rank: int | None  # of modules that no pattern names; None: the file does not say
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    is_rank_stabilized: bool
    has_dora: bool
    has_lora_bias: bool
    bias: str  # "none", "all" or "lora_only": which biases of the base were trained
    modules_to_save: tuple[str, ...]
    trained_tokens: Mapping[str, tuple[int, ...]] | tuple[int, ...]  # by module, or the embedding's
    initialization: str | None  # one of COMPUTABLE_INITS
    target_modules: tuple[str, ...]

    def rank_of(self, module: str) -> int | None:
        """The rank that PEFT gives to the module; None where the file does not say."""
        pattern = first_match(self.ranks, module)
        return self.rank if pattern is None else self.ranks[pattern]

    def scaling(self, module: str, *, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732)."""
        pattern = first_match(self.alphas, module)
        alpha = self.alpha if pattern is None else self.alphas[pattern]
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank


def read_config(path: Path) -> PeftConfig:
    """Read and check the configuration in the folder `path`; raises AdapterError."""
    num_bytes, raw = _read_json(path)

    def refuse(option: str, reason: str) -> NoReturn:
        shown = repr(raw.get(option))
        shown = shown if len(shown) <= MAX_PATTERN else f"{shown[:MAX_PATTERN]}..."
        raise AdapterError(f"adapter {str(path)!r} has {option}={shown}: {reason}")

    if raw.get("peft_type") != "LORA":
        refuse("peft_type", "only 'LORA' is supported")
    for option in _UNSUPPORTED:
        if raw.get(option):
            refuse(option, "not supported")
    if raw.get("bias", "none") not in _BIASES:
        refuse("bias", f"one of {', '.join(_BIASES)} is supported")
    if raw.get("use_dora") and raw.get("lora_bias"):
        refuse("lora_bias", "PEFT has none together with use_dora")
    alpha: Any = raw.get("lora_alpha")
    if not _is_number(alpha):
        refuse("lora_alpha", f"it must be a number of at most {MAX_ALPHA:g}")
    rank = raw.get("r")
    if rank is not None and not _is_rank(rank):
        refuse("r", "it must be a positive integer")
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = raw.get(option) or {}
        if not isinstance(patterns, dict):
            refuse(option, "it must be an object of module names and numbers")
        for pattern, value in patterns.items():
            if not is_plain(pattern):
                refuse(option, f"{pattern[:64]!r} is not a plain module name")
            if not _is_number(value) or (option == "rank_pattern" and not _is_rank(value)):
                refuse(
                    option, f"{pattern[:64]!r} must map to a number, and a rank to a positive one"
                )
    modules_to_save = raw.get("modules_to_save") or []
    if not _is_list_of(modules_to_save, str):
        refuse("modules_to_save", "it must be a list of module names")
    targets = raw.get("target_modules")
    return PeftConfig(
        raw=raw,
        num_bytes=num_bytes,
        alpha=float(alpha),
        rank=rank,
        ranks={name: int(value) for name, value in (raw.get("rank_pattern") or {}).items()},
        alphas={name: float(value) for name, value in (raw.get("alpha_pattern") or {}).items()},
        is_rank_stabilized=bool(raw.get("use_rslora")),
        has_dora=bool(raw.get("use_dora")),
        has_lora_bias=bool(raw.get("lora_bias")),
        bias=str(raw.get("bias", "none")),
        modules_to_save=tuple(modules_to_save),
        trained_tokens=_trained_tokens(raw.get("trainable_token_indices"), refuse=refuse),
        initialization=_initialization(raw.get("init_lora_weights"), refuse=refuse),
        target_modules=tuple(
            sorted(map(str, targets)) if isinstance(targets, list) else [str(targets)]
        ),
    )


def _read_json(path: Path) -> tuple[int, dict[str, Any]]:
    file = path / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(f"no {CONFIG_FILE} in {str(path)!r}: not a PEFT adapter folder")
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{str(file)!r} is larger than {MAX_CONFIG_BYTES} bytes")
    raw = file.read_bytes()
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise AdapterError(f"{str(file)!r} is not valid JSON") from exc
    if not isinstance(config, dict):
        raise AdapterError(f"{str(file)!r} must hold a JSON object")
    return len(raw), config


def _initialization(init: object, *, refuse: Any) -> str | None:
    name = init.lower() if isinstance(init, str) else ""
    if name in COMPUTABLE_INITS:
        return name
    if name.startswith(_LOST_INITS):  # of PiSSA the fast variant, whose choice is random
        refuse("init_lora_weights", _CONVERT)
    if name.startswith("loftq"):
        refuse(
            "init_lora_weights",
            "it was trained on a base quantized in its own way, which is not the base served here",
        )
    return None


def _trained_tokens(
    value: object, *, refuse: Any
) -> Mapping[str, tuple[int, ...]] | tuple[int, ...]:
    if not value:
        return ()
    lists: dict[str, Any] = value if isinstance(value, dict) else {"": value}
    for tokens in lists.values():
        if not _is_list_of(tokens, int) or len(tokens) > MAX_TRAINED_TOKENS:
            refuse("trainable_token_indices", "it must be a list of token ids, or one for a module")
        if len(set(tokens)) != len(tokens) or min(tokens, default=0) < 0:
            refuse("trainable_token_indices", "a token id is negative or there twice")
    if isinstance(value, dict):
        return {str(module): tuple(tokens) for module, tokens in value.items()}
    return tuple(lists[""])


def _is_number(value: object) -> bool:
    """NaN is not within the bounds, and an integer of a thousand digits is not made a float."""
    return (
        not isinstance(value, bool)
        and isinstance(value, (int, float))
        and -MAX_ALPHA <= value <= MAX_ALPHA
    )


def _is_rank(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and value > 0


def _is_list_of(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )
