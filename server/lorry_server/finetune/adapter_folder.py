"""Writes and reads what a run leaves behind: adapters in PEFT's form, and checkpoints.

A checkpoint is an adapter that can be served, with two more files from which its run goes on. Its
weights are float32 and are the ones that learning continues with.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lorry_server.errors import StartupError
from lorry_server.finetune.adapted_model import ADAPTER
from lorry_server.finetune.curve import loss_curve
from lorry_server.finetune.options import CHECKPOINT_INFIX
from lorry_server.finetune.training import Training, TrainingState
from lorry_server.finetune.whole_folder import remove_leftovers, removed_whole, replaced_whole
from lorry_server.lora.adapter_files import CONFIG_FILE, SIDECAR_FILE, WEIGHTS_FILE

CURVE_FILE = "loss.svg"
STATE_FILE = "training_state.json"
TENSORS_FILE = "training_state.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`settings` are those of the run that wrote it: a run is resumed with the same ones."""

    folder: Path
    settings: Mapping[str, Any]
    state: TrainingState


def write_adapter(
    folder: Path,
    training: Training,
    *,
    model_id: str,
    card: Mapping[str, Any],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapter as it is now; with `settings` as a checkpoint. It appears whole.

    `card` is what its `lorry.json` says of it.
    """
    config = copy.deepcopy(training.model.peft_config[ADAPTER])
    config.base_model_name_or_path = model_id  # never a path of this machine
    config.inference_mode = True
    entries = json.loads(json.dumps(config.to_dict(), default=sorted))  # sets, which have no order
    # The head is not among the trained weights even when it is adapted.
    tensors = get_peft_model_state_dict(training.model, save_embedding_layers=False)
    remove_leftovers(folder)
    with replaced_whole(folder) as unfinished:
        _write_json(unfinished / CONFIG_FILE, dict(sorted(entries.items())))
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            unfinished / WEIGHTS_FILE,
            metadata={"format": "pt"},
        )
        _write_json(unfinished / SIDECAR_FILE, card)
        curve = loss_curve(training.losses, held_out=training.held_out_losses, title=folder.name)
        (unfinished / CURVE_FILE).write_text(curve, encoding="utf-8")
        if settings is not None:
            _write_state(unfinished, training.state(), settings)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Raises StartupError where `folder` is not a checkpoint that can be read."""
    try:
        entry = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        state = TrainingState(
            step=int(entry["step"]),
            losses=tuple(entry["losses"]),
            held_out_losses=tuple((int(step), loss) for step, loss in entry["held_out_losses"]),
            tensors=load_file(folder / TENSORS_FILE),
        )
        return Checkpoint(folder, dict(entry["settings"]), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
        raise StartupError(f"{folder} is not a checkpoint that can be resumed: {exc!r}") from exc


def restore_checkpoint(checkpoint: Checkpoint, training: Training) -> None:
    """Give `training` the weights and the state of `checkpoint`, to the bit."""
    tensors = load_file(checkpoint.folder / WEIGHTS_FILE)
    result = set_peft_model_state_dict(training.model, tensors)
    assert not result.unexpected_keys, "the settings are equal, so the weights have their places"
    training.restore(checkpoint.state)


def checkpoint_folder(output: Path, step: int) -> Path:
    """Beside the finished adapter, so that a server that watches their folder finds both."""
    return output.with_name(f"{output.name}{CHECKPOINT_INFIX}{step}")


def find_checkpoints(output: Path) -> list[Path]:
    """The checkpoints of the adapter `output`, in order of their steps."""
    pattern = re.compile(re.escape(f"{output.name}{CHECKPOINT_INFIX}") + r"(\d+)")
    found = {}
    for folder in output.parent.glob("*/"):
        match = pattern.fullmatch(folder.name)
        if match is not None and (folder / STATE_FILE).is_file():
            found[int(match[1])] = folder
    return [found[step] for step in sorted(found)]


def keep_newest(output: Path, *, keep: int) -> None:
    """Remove all checkpoints but the last `keep`."""
    for folder in find_checkpoints(output)[:-keep]:
        removed_whole(folder)


def _write_state(folder: Path, state: TrainingState, settings: Mapping[str, Any]) -> None:
    save_file(state.tensors, folder / TENSORS_FILE)
    _write_json(
        folder / STATE_FILE,
        {
            "step": state.step,
            "losses": state.losses,
            "held_out_losses": state.held_out_losses,
            "settings": settings,
        },
    )


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
