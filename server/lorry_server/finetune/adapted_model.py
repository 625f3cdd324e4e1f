"""The frozen base model with PEFT's fresh low-rank matrices beside the layers to be adapted.

LoRA: arXiv 2106.09685. DoRA: arXiv 2402.09353. Rank-stabilised scaling: arXiv 2312.03732.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorry_server.errors import ModelError, StartupError
from lorry_server.finetune.options import LearningOptions

ADAPTER = "default"  # PEFT's name for the one adapter that is trained


@dataclass(frozen=True, slots=True)
class MatrixGroup:
    """`count` layers of one name and shape: each learns rank * (in + out) parameters.

    `num_magnitudes` are DoRA's, one for each output; else 0.
    """

    name: str
    count: int
    num_inputs: int
    num_outputs: int
    rank: int
    num_magnitudes: int

    @property
    def num_trained(self) -> int:
        each = self.rank * (self.num_inputs + self.num_outputs) + self.num_magnitudes
        return self.count * each


def load_base(folder: Path, *, device: torch.device) -> PreTrainedModel:
    """transformers' model of `folder`: float32 on a CPU, bfloat16 on a GPU.

    Raises ModelError for a folder that transformers cannot load without code of its own.
    """
    # Seconds at most, and not ours.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # theirs
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as exc:
        raise ModelError(f"transformers cannot load the model in {folder}: {exc}") from exc
    model.config.use_cache = False  # nothing is generated
    moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]  # theirs
    return moved


def add_adapter(base: PreTrainedModel, options: LearningOptions) -> Any:
    """Freeze `base` and put low-rank matrices (float32) beside its targets, in place.

    Returns PEFT's model. The start values are those of the global generator, which is seeded here.
    Raises StartupError that names a target which is no linear layer of the model.
    """
    targets = _targets(base, options.targets)
    torch.manual_seed(options.seed)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=int(options.alpha) if options.alpha.is_integer() else options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets,
        use_dora=options.use_dora,
        use_rslora=options.use_rslora,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # PEFT warns that a tied head is trained apart from the embedding, as is meant here.
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        # And it asks transformers for something by an old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        return get_peft_model(base, config)


def matrix_groups(model: Any) -> list[MatrixGroup]:
    """The adapted layers of PEFT's `model` by name and shape, in the order of the model."""
    counts: dict[tuple[str, int, int, int, int], int] = {}
    for name, module in model.named_modules():
        halves = getattr(module, "lora_A", None)
        if not isinstance(halves, nn.ModuleDict) or ADAPTER not in halves:
            continue
        layer: Any = module  # PEFT's, whose parts have no types
        rank, num_inputs = layer.lora_A[ADAPTER].weight.shape
        num_outputs = layer.lora_B[ADAPTER].weight.shape[0]
        magnitudes = getattr(layer, "lora_magnitude_vector", {})
        num_magnitudes = magnitudes[ADAPTER].weight.numel() if ADAPTER in magnitudes else 0
        key = (name.rpartition(".")[2], num_inputs, num_outputs, rank, num_magnitudes)
        counts[key] = counts.get(key, 0) + 1
    return [
        MatrixGroup(name, count, num_inputs, num_outputs, rank, num_magnitudes)
        for (name, num_inputs, num_outputs, rank, num_magnitudes), count in counts.items()
    ]


def trained_parameters(model: Any) -> dict[str, nn.Parameter]:
    """By name, in the order of the model."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def num_frozen(model: Any) -> int:
    """A weight that two layers share counts once."""
    return sum(p.numel() for p in model.parameters() if not p.requires_grad)


def _targets(base: PreTrainedModel, wanted: tuple[str, ...]) -> list[str]:
    names = dict.fromkeys(_linear_names(base))
    head: nn.Module | None = base.get_output_embeddings()  # type: ignore[no-untyped-call]  # theirs
    head_names = {
        name.rpartition(".")[2] for name, module in base.named_modules() if module is head
    }
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise StartupError(
            f"--target {unknown[0]}: this model's linear layers are {', '.join(names)}"
        )
    return list(wanted) or [name for name in names if name not in head_names]


def _linear_names(base: PreTrainedModel) -> Iterator[str]:
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            yield name.rpartition(".")[2]
