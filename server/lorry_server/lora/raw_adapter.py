"""`RawAdapter`: an adapter's folder read a second time, with nothing folded, cast or renamed.

What is served is compared with this. So it shares no code with the reader that serves: the scaling
is PEFT's own rule written once more, the numbers come through `raw_tensors`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorry_server.lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from lorry_server.lora.raw_tensors import Floats, RawTensor, RawTensors

MAX_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."


class RawAdapter:
    """The configuration as it stands in the file, and where each tensor lies."""

    def __init__(self, config: Mapping[str, Any], tensors: RawTensors) -> None:
        self.config = config
        self.tensors = tensors
        self._alone = {name.removeprefix(_PREFIX): name for name in tensors}

    @classmethod
    def read(cls, folder: Path) -> RawAdapter:
        """Raises OSError or ValueError; the folder was read before, so it has changed since."""
        with (folder / CONFIG_FILE).open("rb") as opened:
            config = json.loads(opened.read(MAX_CONFIG_BYTES))
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_FILE} holds no JSON object")
        return cls(config, RawTensors(folder / WEIGHTS_FILE))

    @property
    def base_model(self) -> str | None:
        """The name or path of the model that the adapter was trained on, as its author had it."""
        name = self.config.get("base_model_name_or_path")
        return name if isinstance(name, str) and name else None

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The names that were to be adapted, where that is a list without exceptions; else ()."""
        targets = self.config.get("target_modules")
        if not isinstance(targets, list) or self.config.get("exclude_modules"):
            return ()
        return tuple(map(str, targets))

    def scaling(self, module: str, *, rank: int) -> float:
        """alpha over r, or over the root of r where the configuration has `use_rslora`."""
        alpha = float(self._of_module("alpha_pattern", module, self.config["lora_alpha"]))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def a(self, module: str) -> RawTensor | None:
        """The stored lora_A of a linear module."""
        return self._tensor(f"{module}.lora_A.weight")

    def b(self, module: str) -> RawTensor | None:
        """The stored lora_B of a linear module."""
        return self._tensor(f"{module}.lora_B.weight")

    def a_and_b(self, module: str, *, rows: slice) -> tuple[Floats, Floats] | None:
        """lora_A and `rows` of lora_B; None where the module has no such matrices of floats."""
        a, b = self.a(module), self.b(module)
        if a is None or b is None or not (a.is_float and b.is_float):
            return None
        return a.whole(), b.rows(rows.start, rows.stop)

    def _tensor(self, name: str) -> RawTensor | None:
        stored = self._alone.get(name)
        return None if stored is None else self.tensors[stored]

    def _of_module(self, option: str, module: str, default: Any) -> Any:
        # PEFT's own matching. Patterns that could take long were refused when the adapter was read.
        for pattern, value in (self.config.get(option) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default
