"""`HFFolder`: a model in Hugging Face's form, and how it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor


@dataclass(frozen=True, slots=True)
class HFFolder:
    """The contents of a model folder. A tied head is not among the tensors."""

    config: Mapping[str, Any]
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    special_tokens: Mapping[str, str]  # "bos_token" and such
    chat_template: str | None

    def write(self, folder: Path) -> None:
        save_file(self.tensors, folder / "model.safetensors", metadata={"format": "pt"})
        _write_json(folder / "config.json", self.config)
        _write_json(
            folder / "generation_config.json",
            {key: value for key, value in self.config.items() if key.endswith("_token_id")},
        )
        self.tokenizer.save(str(folder / "tokenizer.json"))
        _write_json(
            folder / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
            | dict(self.special_tokens),
        )
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
