"""Sort the tensors of a PEFT file by what they are: pairs of LoRA, biases, replaced weights, rows.

Names are those that PEFT's `get_peft_model_state_dict` writes. One that is none of them is refused,
and so is one that the configuration does not speak of: PEFT would pass over it in silence.

Shape legend: R rank rows, I inputs and O outputs of a linear module, V vocabulary, K tokens,
D hidden size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lorry_server.errors import AdapterError
from lorry_server.lora.peft_config import PeftConfig

MAX_RANK = 512
MAX_SHOWN = 128  # characters of a stranger's name
# What PEFT calls embeddings; `save_embedding_layers` writes them beside an adapter.
EMBEDDING_NAMES = ("embed_tokens", "lm_head")

_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector(?:\.weight)?"
    r"|lora_embedding_A|lora_embedding_B|token_adapter\.trainable_tokens_delta"
    r"|(?:base_layer|original_module|modules_to_save)\.(?:weight|bias)|weight|bias)"
)
_LORA = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_B.bias": "bias",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_embedding_A": "embedding A",
    "lora_embedding_B": "embedding B",
}


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """The update of one module: `b_OR @ a_RI`, float32, scaling already folded into `b_OR`.

    With a magnitude (DoRA, arXiv 2402.09353) each row of what the update leads to, `W + b a`, is
    made as long as its magnitude. For an embedding the inputs are the tokens.
    """

    a_RI: Tensor
    b_OR: Tensor
    magnitude_O: Tensor | None = None
    bias_O: Tensor | None = None  # of lora_B, scaled as it is
    scaling: float = 1.0  # what was folded in

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Rows that stand in place of those of `token_ids` in an embedding or a head."""

    token_ids: tuple[int, ...]
    rows_KD: Tensor


@dataclass(slots=True)
class SortedTensors:
    """What a file holds; see `Adapter` for the names."""

    modules: dict[str, LoraWeights] = field(default_factory=dict)
    embedding: dict[str, LoraWeights] = field(default_factory=dict)
    replaced: dict[str, Tensor] = field(default_factory=dict)
    base_copies: dict[str, Tensor] = field(default_factory=dict)
    token_rows: dict[str, TokenRows] = field(default_factory=dict)

    def features(self, config: PeftConfig) -> tuple[str, ...]:
        """What there is beyond plain LoRA, in the order of the alphabet."""
        heads = [*self.modules, *self.token_rows, *(n.rpartition(".")[0] for n in self.replaced)]
        present = {
            "dora": config.has_dora,
            "rslora": config.is_rank_stabilized,
            "bias": config.bias != "none",
            "lora_bias": config.has_lora_bias,
            "modules_to_save": bool(config.modules_to_save),
            "embedding": bool(self.embedding),
            "lm_head": "lm_head" in heads,
            "trainable_tokens": bool(self.token_rows),
            "base_copies": bool(self.base_copies),
            config.initialization or "": config.initialization is not None,
        }
        return tuple(sorted(name for name, is_there in present.items() if is_there))


def sort_tensors(path: Path, config: PeftConfig, tensors: Mapping[str, Tensor]) -> SortedTensors:
    """Raises AdapterError that names a tensor of a bad name, shape or value, or that is missing."""
    return _Sorter(path, config).sort(tensors)


class _Sorter:
    """Sorts one file; `path` is for its messages."""

    def __init__(self, path: Path, config: PeftConfig) -> None:
        self._path = path
        self._config = config
        self._found = SortedTensors()
        self._pieces: dict[str, dict[str, Tensor]] = {}  # of LoRA, by module
        self._shadowed: list[str] = []  # biases of modules that were saved as a whole

    def sort(self, tensors: Mapping[str, Tensor]) -> SortedTensors:
        if not tensors:
            raise self._error("holds no tensors")
        for name, tensor in tensors.items():
            if not tensor.dtype.is_floating_point or not torch.isfinite(tensor).all():
                raise self._error(f"tensor {_shown(name)} holds NaN or infinity, or no floats")
            self._take(name, tensor)
        found = self._found
        for module, pieces in sorted(self._pieces.items()):
            if "embedding A" in pieces or "embedding B" in pieces:
                found.embedding[module] = self._embedding_weights(module, pieces)
            else:
                found.modules[module] = self._linear_weights(module, pieces)
        self._check_completeness()
        return found

    def _take(self, name: str, tensor: Tensor) -> None:
        match = _NAME.fullmatch(name)
        if match is None:
            raise self._unknown(name)
        module, part = match["module"], match["part"]
        if part in _LORA:
            self._pieces.setdefault(module, {})[_LORA[part]] = tensor
            return
        if part.startswith("token_adapter."):
            self._found.token_rows[module] = self._token_rows(module, tensor)
            return
        whole = f"{module}.{part.rpartition('.')[2]}"
        if part.startswith("original_module."):
            self._shadowed.append(whole)
        elif whole.endswith(".bias") or self._is_saved(module, part):
            self._found.replaced[whole] = self._checked(name, tensor, dims=(1, 2))
        elif module.rpartition(".")[2] in EMBEDDING_NAMES:
            self._found.base_copies[whole] = self._checked(name, tensor, dims=(2,))
        else:
            raise self._unknown(name)

    def _is_saved(self, module: str, part: str) -> bool:
        """Whether PEFT saved the module, or one that it lies in, because it was asked to."""
        if part.startswith("modules_to_save."):
            return True
        if part.startswith("base_layer."):
            return False
        names = module.split(".")
        paths = [".".join(names[: index + 1]) for index in range(len(names))]
        return any(path.endswith(name) for path in paths for name in self._config.modules_to_save)

    def _linear_weights(self, module: str, pieces: dict[str, Tensor]) -> LoraWeights:
        self._check_pieces(module, pieces, {"A", "B"}, shown="lora_A, lora_B")
        a_RI, b_OR = pieces["A"].float(), pieces["B"].float()
        return self._weights(module, a_RI, b_OR, pieces)

    def _embedding_weights(self, module: str, pieces: dict[str, Tensor]) -> LoraWeights:
        pair = {"embedding A", "embedding B"}
        self._check_pieces(module, pieces, pair, shown="lora_embedding_A, lora_embedding_B")
        a_RV, b_DR = pieces["embedding A"].float(), pieces["embedding B"].float()
        return self._weights(module, a_RV, b_DR, pieces)

    def _check_pieces(
        self, module: str, pieces: dict[str, Tensor], pair: set[str], *, shown: str
    ) -> None:
        if not pair <= set(pieces):
            raise self._error(f"{_shown(module)} has only one of {shown}")
        wanted = {"magnitude": self._config.has_dora, "bias": self._config.has_lora_bias}
        options = {"magnitude": "use_dora", "bias": "lora_bias"}
        if "embedding A" in pair:
            wanted["bias"] = False  # PEFT has none there
        for piece, is_wanted in wanted.items():
            if is_wanted != (piece in pieces):
                has = "has a" if piece in pieces else "lacks its"
                value = self._config.raw.get(options[piece])
                raise self._error(
                    f"{_shown(module)} {has} {piece}, with {options[piece]}={value!r}"
                )
        if set(pieces) - pair - set(wanted):
            raise self._error(f"{_shown(module)} is a linear layer and an embedding at once")

    def _weights(
        self, module: str, a_RI: Tensor, b_OR: Tensor, pieces: dict[str, Tensor]
    ) -> LoraWeights:
        for name, matrix in (("lora_A", a_RI), ("lora_B", b_OR)):
            self._checked(f"{module}.{name}", matrix, dims=(2,))
        rank = a_RI.shape[0]
        if b_OR.shape[1] != rank:
            raise self._error(
                f"{_shown(module)} has rank {rank} in lora_A and {b_OR.shape[1]} in lora_B"
            )
        if not 1 <= rank <= MAX_RANK:
            raise self._error(f"{_shown(module)} has rank {rank}; 1 to {MAX_RANK} is supported")
        configured = self._config.rank_of(module)
        if configured not in (None, rank):
            raise self._error(
                f"{_shown(module)} has rank {rank}; the configuration gives it {configured}"
            )
        scaling = self._config.scaling(module, rank=rank)
        magnitude_O, bias_O = pieces.get("magnitude"), pieces.get("bias")
        for name, vector in (("lora_magnitude_vector", magnitude_O), ("lora_B.bias", bias_O)):
            if vector is not None and vector.shape != (len(b_OR),):
                raise self._error(
                    f"{_shown(module)} has {name} of shape {tuple(vector.shape)} "
                    f"and {len(b_OR)} outputs"
                )
        return LoraWeights(
            a_RI,
            b_OR * scaling,
            magnitude_O=None if magnitude_O is None else magnitude_O.float(),
            bias_O=None if bias_O is None else bias_O.float() * scaling,
            scaling=scaling,
        )

    def _token_rows(self, module: str, rows_KD: Tensor) -> TokenRows:
        tokens = self._config.trained_tokens
        if isinstance(tokens, Mapping):
            ids = next((ids for name, ids in tokens.items() if module.endswith(name)), ())
        else:
            ids = tokens
        self._checked(f"{module}.trainable_tokens_delta", rows_KD, dims=(2,))
        if len(ids) != len(rows_KD):
            raise self._error(
                f"{_shown(module)} has {len(rows_KD)} trained tokens; "
                f"trainable_token_indices names {len(ids)}"
            )
        return TokenRows(ids, rows_KD.float())

    def _check_completeness(self) -> None:
        """All that the configuration speaks of is there, and nothing that nobody will read."""
        found = self._found
        saved = {name.rpartition(".")[0] for name in found.replaced}
        for name in self._shadowed:
            if name.rpartition(".")[0] not in saved:
                raise self._unknown(name)
        for name in self._config.modules_to_save:
            if not any(f".{name}." in f".{module}." or module.endswith(name) for module in saved):
                raise self._error(f"modules_to_save names {_shown(name)}, which is not saved")
        if self._config.trained_tokens and not found.token_rows:
            raise self._error("has trainable_token_indices, and their rows are not saved")
        for module in found.token_rows:
            if module in found.modules or module in found.embedding:
                raise self._error(f"{_shown(module)} has trained tokens and LoRA at once")

    def _checked(self, name: str, tensor: Tensor, *, dims: tuple[int, ...]) -> Tensor:
        if tensor.dim() not in dims or tensor.numel() == 0:
            raise self._error(
                f"tensor {_shown(name)} has shape {tuple(tensor.shape)}; "
                f"{' or '.join(map(str, dims))} dimensions are wanted, none of them empty"
            )
        return tensor

    def _unknown(self, name: str) -> AdapterError:
        return self._error(
            f"tensor {_shown(name)} is not a LoRA A or B matrix, nor anything else that the "
            "configuration speaks of, and nothing else is supported"
        )

    def _error(self, complaint: str) -> AdapterError:
        return AdapterError(f"adapter {str(self._path)!r}: {complaint}")


def _shown(name: str) -> str:
    return repr(name[:MAX_SHOWN])
