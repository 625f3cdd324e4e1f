"""The flags of `lorry serve` about adapters: what is served, from where, and within which bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def add_adapter_flags(add: Callable[..., Any]) -> None:
    """Describe them to `add`, which is a parser's `add_argument`."""
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="a PEFT LoRA to serve as NAME from a folder or a URL, such as s3://bucket/sql or "
        "hf://owner/name@revision; may be given more than once",
    )
    add(
        "--allow-partial-adapters",
        action="store_true",
        help="serve an adapter even if some of its tensors match no layer of the model",
    )
    add(
        "--adapter-memory",
        metavar="BYTES",
        help="device memory of the adapters in use, such as 512MiB (default: a quarter of the free "
        "memory, at most 2GiB); the least recently used make room",
    )
    add(
        "--adapter-host-memory",
        metavar="BYTES",
        help="memory of all adapters that are ready to be used, such as 4GiB (default: a quarter "
        "of the memory, at most 4GiB, but twice --adapter-memory at least); the least recently used "
        "are loaded again when they are asked for",
    )
    add(
        "--adapter-load-workers",
        type=int,
        default=4,
        metavar="N",
        help="adapters that are read and prepared at once; fetching is not counted",
    )
    add(
        "--adapter-load-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds that a request waits for its adapter to be loaded",
    )
    add(
        "--adapter-failure-memory",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds until an adapter that failed to load is tried again",
    )
    add(
        "--adapter-root",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder, or a URL such as s3://bucket/adapters/, below which a name that nobody "
        "loaded is looked for when a request asks for it; may be given more than once",
    )
    add(
        "--adapter-source",
        action="append",
        default=[],
        metavar="URL",
        help="adapters may be loaded from below it, such as hf://org/, https://host/path/ or "
        "file:///data/; may be given more than once (default: from nowhere)",
    )
    add(
        "--watch",
        action="append",
        default=[],
        metavar="DIR",
        help="serve the adapter folders in DIR under their names as they come, change and go, such "
        "as the checkpoints of lorry finetune; may be given more than once",
    )
    add(
        "--max-adapter-bytes",
        default="2GiB",
        metavar="BYTES",
        help="largest adapter that is read or fetched",
    )
    add(
        "--adapter-disk-cache",
        default="10GiB",
        metavar="BYTES",
        help="disk space of fetched adapters; those not used for longest are removed",
    )
