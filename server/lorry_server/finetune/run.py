"""One training run from its options to the finished adapter: the conductor of this package."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lorry_server.errors import StartupError
from lorry_server.finetune.adapted_model import (
    add_adapter,
    load_base,
    matrix_groups,
    num_frozen,
    trained_parameters,
)
from lorry_server.finetune.adapter_folder import (
    Checkpoint,
    checkpoint_folder,
    find_checkpoints,
    keep_newest,
    read_checkpoint,
    restore_checkpoint,
    write_adapter,
)
from lorry_server.finetune.batches import split_lines
from lorry_server.finetune.data import describe_bad_lines
from lorry_server.finetune.encoding import Dataset, ExampleEncoder, read_dataset
from lorry_server.finetune.interrupt import deferred_interrupt
from lorry_server.finetune.options import RunOptions
from lorry_server.finetune.progress import progress_of
from lorry_server.finetune.summary import loss_line, parameter_table
from lorry_server.finetune.training import Training
from lorry_server.finetune.whole_folder import removed_whole
from lorry_server.lora.base_fingerprint import base_fingerprint
from lorry_server.model.hf_config import read_config
from lorry_server.model.source import ModelSource, resolve_model
from lorry_server.text.chat_template import ChatTemplate
from lorry_server.text.tokenizer import Tokenizer

FLAGS = {"learning_rate": "lr", "num_epochs": "epochs", "num_steps": "steps", "targets": "target"}
FLAGS |= {"use_dora": "dora", "use_rslora": "rslora"}


def finetune(options: RunOptions) -> int:
    """Train an adapter and write its folder. 0 when it is finished, 128 + n after signal n.

    Raises StartupError with a sentence that says what to change.
    """
    checkpoint = _checkpoint_to_resume(options)
    device = _device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    source = resolve_model(options.model, cache_dir=options.cache_dir, progress=_tell)
    dataset = _read_data(options, source)
    settings = {
        **options.learning.as_json(),
        "model": source.model_id,
        "data": _digest(options.data),
    }
    if checkpoint is not None:
        _check_settings(checkpoint, settings)
    training = _training(options, source, dataset, device=device)
    if checkpoint is not None:
        restore_checkpoint(checkpoint, training)
        _tell(f"resumed after step {training.step} from {checkpoint.folder}")
    elif options.overwrite:
        for folder in find_checkpoints(options.output):
            removed_whole(folder)
    return _train(options, training, source, settings)


def _train(
    options: RunOptions, training: Training, source: ModelSource, settings: Mapping[str, Any]
) -> int:
    model_id = source.model_id
    card = {
        "description": options.description or _description(options, training, model_id),
        "base_fingerprint": base_fingerprint(source.path),
    }

    def save_checkpoint() -> Path:
        folder = checkpoint_folder(options.output, training.step)
        write_adapter(folder, training, model_id=model_id, card=card, settings=settings)
        keep_newest(options.output, keep=options.keep)
        return folder

    with (
        deferred_interrupt() as interrupt,
        progress_of(training.num_steps, done=training.step) as progress,
    ):
        if training.step == 0:
            training.evaluate()
        while not training.is_done:
            loss = training.advance()
            progress.advance(training.step, loss=loss)
            if training.is_done or training.step % options.save_every == 0:
                training.evaluate()
            if not training.is_done and training.step % options.save_every == 0:
                progress.say(f"saved {save_checkpoint()}")
            if interrupt.signum is not None and not training.is_done:
                folder = checkpoint_folder(options.output, training.step)
                if not folder.exists():
                    save_checkpoint()
                progress.say(f"stopped; the same command with --resume goes on from {folder}")
                return 128 + interrupt.signum
    write_adapter(options.output, training, model_id=model_id, card=card)
    print(loss_line(training.losses, training.held_out_losses))
    print(f"saved {options.output}, its loss curve in {options.output / 'loss.svg'}")
    print(f"serve it: lorry serve --adapter {options.name}={options.output}")
    return 0


def _training(
    options: RunOptions, source: ModelSource, dataset: Dataset, *, device: torch.device
) -> Training:
    learning = options.learning
    learned, held_out = split_lines(
        dataset.lines, eval_split=learning.eval_split, seed=learning.seed
    )
    _tell(f"loading {source.model_id}")
    model = add_adapter(load_base(source.path, device=device), learning)
    groups = matrix_groups(model)
    num_trained = sum(parameter.numel() for parameter in trained_parameters(model).values())
    assert num_trained == sum(group.num_trained for group in groups), "nothing else is trained"
    training = Training(model, learned, held_out, learning, device=device)
    dtype = "float32" if device.type == "cpu" else "bfloat16"
    print(parameter_table(groups, num_frozen=num_frozen(model), dtype=dtype))
    print(
        f"data     {len(learned)} examples of {len(dataset.lines)} lines, {len(held_out)} more "
        f"held out; {training.num_steps} steps of {learning.batch_size}, "
        f"{training.steps_per_epoch} to see each once",
        flush=True,
    )
    return training


def _read_data(options: RunOptions, source: ModelSource) -> Dataset:
    most = read_config(source.path).get("max_position_embeddings")
    max_length = options.learning.max_length
    encoder = ExampleEncoder(
        Tokenizer.from_folder(source.path),
        ChatTemplate.from_folder(source.path),
        max_length=min(max_length, most) if isinstance(most, int) else max_length,
        learn_prompt=options.learning.learn_prompt,
    )
    dataset = read_dataset(options.data, encoder, skip_bad_lines=options.learning.skip_bad_lines)
    num_lines = len(dataset.lines) + len(dataset.bad_lines)
    if dataset.bad_lines:
        _tell(describe_bad_lines(options.data, dataset.bad_lines, num_lines=num_lines))
    if dataset.ignored_keys:
        names = ", ".join(f'"{key:.40}"' for key in dataset.ignored_keys[:10])
        _tell(f"{options.data.name}: means nothing to training: {names}")
    return dataset


def _checkpoint_to_resume(options: RunOptions) -> Checkpoint | None:
    checkpoints = find_checkpoints(options.output)
    if options.resume:
        if not checkpoints:
            raise StartupError(f"--resume: there is no checkpoint beside {options.output}")
        return read_checkpoint(checkpoints[-1])
    existing = [*checkpoints, *([options.output] if options.output.exists() else [])]
    if existing and not options.overwrite:
        raise StartupError(
            f"{existing[-1]} exists; --resume goes on from the newest checkpoint, --overwrite "
            "begins anew and replaces it"
        )
    return None


def _check_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        before = checkpoint.settings.get(key)
        if before == value:
            continue
        if key == "data":
            raise StartupError(f"--resume: the data are not those that {checkpoint.folder} learned")
        flag = FLAGS.get(key, key.replace("_", "-"))
        raise StartupError(
            f"--resume: --{flag} was {before!r} when {checkpoint.folder} was written and is "
            f"{value!r} now; a run goes on with the settings that it began with"
        )


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise StartupError("--device cuda: torch finds no CUDA device here")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _description(options: RunOptions, training: Training, model_id: str) -> str:
    return (
        f"LoRA of rank {options.learning.rank} for {model_id}, trained on {options.data.name} "
        f"for {training.num_steps} steps"
    )


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _tell(line: str) -> None:
    print(f"lorry: {line}", file=sys.stderr, flush=True)
