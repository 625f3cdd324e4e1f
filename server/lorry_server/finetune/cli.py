"""`lorry finetune`: the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lorry_server.config import default_cache_dir
from lorry_server.errors import StartupError
from lorry_server.finetune.options import LearningOptions, RunOptions

DEFAULT_EPOCHS = 3.0


def main(argv: Sequence[str]) -> int:
    """Train an adapter. Returns the exit status.

    0 when it is finished; 1 when it cannot be trained as asked; 130 after Ctrl-C, with a
    checkpoint; argparse exits with 2 on wrong arguments.
    """
    parser = _parser()
    given = parser.parse_args(list(argv))
    try:
        options = _options(given)
        # torch takes seconds to import; a wrong flag should not wait for it.
        from lorry_server.finetune.run import finetune

        return finetune(options)
    except StartupError as exc:
        print(f"lorry finetune: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _options(given: argparse.Namespace) -> RunOptions:
    epochs = given.epochs
    if epochs is None and given.steps is None:
        epochs = DEFAULT_EPOCHS
    return RunOptions(
        name=given.name,
        data=given.data,
        output=given.output or Path("adapters") / given.name,
        model=given.model,
        cache_dir=given.cache_dir,
        device=given.device,
        threads=given.threads,
        description=given.description,
        save_every=given.save_every,
        keep=given.keep,
        resume=given.resume,
        overwrite=given.overwrite,
        learning=LearningOptions(
            rank=given.rank,
            alpha=given.alpha if given.alpha is not None else 2.0 * given.rank,
            dropout=given.dropout,
            targets=tuple(given.target or ()),
            use_dora=given.dora,
            use_rslora=given.rslora,
            learning_rate=given.lr,
            num_epochs=epochs,
            num_steps=given.steps,
            batch_size=given.batch_size,
            max_length=given.max_length,
            learn_prompt=given.learn_prompt,
            eval_split=given.eval_split,
            skip_bad_lines=given.skip_bad_lines,
            seed=given.seed,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry finetune",
        description="Train a LoRA adapter for a model from a JSONL file, and write the folder that "
        "lorry serve serves.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="FILE",
        help='JSONL: {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...} '
        "a line",
    )
    add("--name", required=True, help="the adapter's name")
    add("--model", metavar="M", help="the base model, as lorry serve takes it")
    add("--output", type=Path, metavar="DIR", help="the adapter's folder (default: adapters/NAME)")
    add("--description", metavar="TEXT", help="kept in the adapter's lorry.json")
    how = parser.add_argument_group("what is learned")
    add = how.add_argument
    count = _number(int, 1, 10**6)
    add("--rank", type=_number(int, 1, 512), default=16, metavar="R", help="(default: %(default)s)")
    add(
        "--alpha",
        type=_number(float, 1e-6, 1e6),
        metavar="A",
        help="the update is scaled by alpha / rank (default: twice the rank)",
    )
    add(
        "--target",
        action="append",
        metavar="NAME",
        help="a linear layer to adapt, such as q_proj; may be given more than once (default: all "
        "but the head)",
    )
    add("--dora", action="store_true", help="learn directions and magnitudes apart")
    add("--rslora", action="store_true", help="scale by alpha / sqrt(rank) instead")
    add(
        "--dropout",
        type=_number(float, 0, 0.9),
        default=0.05,
        metavar="P",
        help="before A (default: %(default)s)",
    )
    add("--learn-prompt", action="store_true", help="learn the prompts as well as the completions")
    add(
        "--lr",
        type=_number(float, 1e-9, 1),
        default=5e-4,
        help="highest learning rate (default: %(default)s)",
    )
    length = how.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs",
        type=_number(float, 0.001, 10**4),
        metavar="N",
        help=f"times that each example is learned (default: {DEFAULT_EPOCHS:g})",
    )
    length.add_argument("--steps", type=count, metavar="N", help="steps instead of epochs")
    add(
        "--batch-size",
        type=count,
        default=4,
        metavar="N",
        help="examples of a step (default: %(default)s)",
    )
    add(
        "--max-length",
        type=count,
        default=1024,
        metavar="N",
        help="tokens of the longest example that is taken (default: %(default)s)",
    )
    add(
        "--eval-split",
        type=_number(float, 0, 0.9),
        default=0.0,
        metavar="SHARE",
        help="share of the lines that is held out to measure the loss on (default: none)",
    )
    add("--skip-bad-lines", action="store_true", help="leave out lines that cannot be learned from")
    add("--seed", type=_number(int, 0, 2**63 - 1), default=0, help="(default: %(default)s)")
    run = parser.add_argument_group("the run")
    add = run.add_argument
    add(
        "--save-every",
        type=count,
        default=100,
        metavar="N",
        help="write a checkpoint, NAME.step-N, every N steps (default: %(default)s)",
    )
    add(
        "--keep",
        type=count,
        default=3,
        metavar="K",
        help="checkpoints to keep (default: %(default)s)",
    )
    add("--resume", action="store_true", help="go on from the newest checkpoint")
    add("--overwrite", action="store_true", help="begin anew where a run of that name has been")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--threads", type=_number(int, 1, 1024), metavar="N", help="compute threads on a CPU")
    add(
        "--cache-dir",
        type=Path,
        default=default_cache_dir(),
        metavar="DIR",
        help="where converted models are kept (default: %(default)s)",
    )
    return parser


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """A parser of numbers from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"invalid value {text!r}") from None
        if not math.isfinite(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"invalid value {text!r}: it must be between {low:g} and {high:g}"
            )
        return value

    return parse
