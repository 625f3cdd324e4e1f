"""The settings of a training run, checked when they are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorry_server.errors import StartupError
from lorry_server.lora.names import check_adapter_name

CHECKPOINT_INFIX = ".step-"  # in the names of checkpoints, which are adapters like any other
MAX_DESCRIPTION_CHARS = 4096
_LONGEST_STEP = "1000000"


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """What decides the learned weights, together with the model and the data.

    Each checkpoint holds them, and a run is resumed with the same ones only. `targets` are names
    of linear layers, empty for all but the head; one of `num_epochs` and `num_steps` is given.
    """

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    use_dora: bool
    use_rslora: bool
    learning_rate: float
    num_epochs: float | None
    num_steps: int | None
    batch_size: int
    max_length: int
    learn_prompt: bool
    eval_split: float
    skip_bad_lines: bool
    seed: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "targets": list(self.targets)}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One call of `lorry finetune`. `output` is the folder of the finished adapter."""

    name: str
    data: Path
    output: Path
    model: str | None
    cache_dir: Path
    device: str
    threads: int | None
    description: str | None
    save_every: int
    keep: int
    resume: bool
    overwrite: bool
    learning: LearningOptions

    def __post_init__(self) -> None:
        try:
            check_adapter_name(f"{self.name}{CHECKPOINT_INFIX}{_LONGEST_STEP}")
        except ValueError as exc:
            raise StartupError(f"--name: {exc}") from exc
        if "/" in self.name:
            raise StartupError(f"--name {self.name!r} has a '/'; it is also the name of a folder")
        if self.output.name != self.name:
            raise StartupError(
                f"--output {self.output} must end in the adapter's name, {self.name!r}: a server "
                "that watches the folder above it serves it under that name"
            )
        if self.description is not None and len(self.description) > MAX_DESCRIPTION_CHARS:
            raise StartupError(f"--description has more than {MAX_DESCRIPTION_CHARS} characters")
        if self.resume and self.overwrite:
            raise StartupError("--resume and --overwrite exclude each other")
