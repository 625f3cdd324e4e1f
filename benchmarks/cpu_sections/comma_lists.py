"""Types for options that take several values, with commas between them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence


def names_among(known: Sequence[str]) -> Callable[[str], list[str]]:
    """A type for argparse that takes any of `known` and refuses another by name."""

    def names(text: str) -> list[str]:
        given = text.split(",")
        wrong = [name for name in given if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
        return given

    return names


def add_only(parser: argparse.ArgumentParser, sections: Sequence[str]) -> None:
    """The option `--only`: some of the sections, all by default."""
    parser.add_argument(
        "--only",
        type=names_among(sections),
        default=list(sections),
        metavar="A,B",
        help=", ".join(sections),
    )


def counts(text: str) -> list[int]:
    """A type for argparse: whole numbers of at least 1."""
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: each must be at least 1")
    return numbers
