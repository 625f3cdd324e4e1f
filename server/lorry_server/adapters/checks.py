"""`AdapterChecks`: what every adapter has to pass before it is served, on the thread that loads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from lorry_server.adapters.contract import Contract, read_contract
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import Adapter
from lorry_server.lora.doctor import examine
from lorry_server.lora.model_facts import ModelFacts
from lorry_server.text.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChecks:
    """Holds facts of the served model and nothing that changes, so any thread may use it.

    `special_tokens` are the model's, for an adapter's template to write.
    """

    model: ModelFacts
    chat_template: ChatTemplate | None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    allow_partial: bool = False

    def read_contract(self, folder: Path) -> Contract | None:
        """The contract in an adapter's folder, tried on; raises AdapterError."""
        contract = read_contract(folder, tokens=self.special_tokens)
        if contract is not None:
            contract.try_on(self.chat_template)
        return contract

    def examine(self, adapter: Adapter) -> dict[str, Any]:
        """The doctor's report as JSON's types; raises AdapterError with the reasons to refuse."""
        report = examine(adapter, self.model, allow_partial=self.allow_partial)
        if report.refusal is not None:
            raise AdapterError(f"adapter {str(adapter.path)!r}: {report.refusal}")
        written: dict[str, Any] = msgspec.to_builtins(report)
        return written
