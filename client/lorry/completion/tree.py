"""What can be typed after `lorry`, read off the commands' own parsers."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lorry.subcommand import Subcommand

# What a shell is to offer in a place. "text" is something that nobody can guess.
Kind = Literal["nothing", "text", "choice", "adapter", "file"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("ADAPTER", "NAME"), "adapter"),
    **dict.fromkeys(("FILE", "DIR", "PATH", "SOURCE"), "file"),
}


@dataclass(frozen=True, slots=True)
class Option:
    """`value` is what follows the flags; `choices` has its words where they are fixed."""

    flags: tuple[str, ...]
    summary: str
    value: Kind
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One command by its words, "adapters load". `asks_help`: its options are in its --help only."""

    path: str
    summary: str
    options: tuple[Option, ...] = ()
    argument: Kind = "nothing"
    choices: tuple[str, ...] = ()
    asks_help: bool = False


def command_nodes(subcommands: Mapping[str, Subcommand]) -> list[Node]:
    """The root, whose path is "", then each command and each command of a command.

    The client's own commands are described in full. Others would have to be imported with all that
    they need; the scripts ask them for help when somebody completes them.
    """
    nodes = [Node("", "", choices=(*subcommands, "version"), argument="choice")]
    for name, command in subcommands.items():
        if command.module.split(".")[0] == "lorry":
            parser = importlib.import_module(command.module).make_parser()
            nodes += _nodes_of(parser, name, command.summary)
        else:
            nodes.append(Node(name, command.summary, argument="file", asks_help=True))
    return nodes


def _nodes_of(parser: argparse.ArgumentParser, path: str, summary: str) -> list[Node]:
    options: list[Option] = []
    argument: Kind = "nothing"
    choices: tuple[str, ...] = ()
    below: list[Node] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            argument, choices = "choice", tuple(action.choices)
            summaries = {item.dest: item.help or "" for item in action._choices_actions}
            for name, child in action.choices.items():
                below += _nodes_of(child, f"{path} {name}", summaries.get(name, ""))
        elif action.option_strings:
            fixed = tuple(str(choice) for choice in action.choices or ())
            value = "nothing" if action.nargs == 0 else _kind(action)
            options.append(Option(tuple(action.option_strings), action.help or "", value, fixed))
        elif argument == "nothing":  # the first place; what follows it cannot be told apart
            argument = _kind(action)
            choices = tuple(str(choice) for choice in action.choices or ())
    return [Node(path, summary, tuple(options), argument, choices), *below]


def _kind(action: argparse.Action) -> Kind:
    if action.choices is not None:
        return "choice"
    return _KINDS.get(str(action.metavar), "text")
