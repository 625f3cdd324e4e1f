"""`lorry adapters`: look at a server's adapters and change them; check a folder without a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from lorry.adapter_report import card_details, card_line, cards_table, printable
from lorry.client import AsyncClient
from lorry.errors import (
    AdapterExists,
    AdapterNotFound,
    ClientError,
    ConfigError,
    ConnectError,
    Unauthorized,
)
from lorry.subcommand import Subcommand, run_subcommand
from lorry.types.adapters import AdapterCard

_FAILED, _USAGE_ERROR, _INTERRUPTED = 1, 2, 130

# Reads adapters as the server does, so it comes with the server.
_CHECK = Subcommand(
    "check a folder: what the server would say to it", "lorry_server.adapters.check_cli", "server"
)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when it is done, 1 when the server refused or is not there, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] == "check":
        return run_subcommand("adapters check", _CHECK, arguments[1:])
    namespace = make_parser().parse_args(arguments)
    try:
        print(asyncio.run(_run(namespace)))
    except ClientError as error:
        print(f"lorry adapters: {printable(_with_advice(error, namespace))}", file=sys.stderr)
        return _USAGE_ERROR if isinstance(error, ConfigError) else _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


async def _run(namespace: argparse.Namespace) -> str:
    """Do what was asked for and return what is to be printed."""
    async with AsyncClient(
        namespace.url, api_key=namespace.api_key, timeout=namespace.timeout
    ) as client:
        command: Callable[[AsyncClient, argparse.Namespace], Coroutine[Any, Any, str]]
        command = namespace.command
        return await command(client, namespace)


async def _list(client: AsyncClient, namespace: argparse.Namespace) -> str:
    cards = await client.adapters.list()
    return _json(cards) if namespace.json else cards_table(cards)


async def _show(client: AsyncClient, namespace: argparse.Namespace) -> str:
    card = await client.adapters.get(namespace.name)
    return _json(card) if namespace.json else card_details(card)


async def _load(client: AsyncClient, namespace: argparse.Namespace) -> str:
    card = await client.adapters.load(
        namespace.name,
        namespace.source,
        pinned=namespace.pinned,
        preload=namespace.preload,
        replace=namespace.replace,
    )
    return _told(card, namespace)


async def _unload(client: AsyncClient, namespace: argparse.Namespace) -> str:
    await client.adapters.unload(namespace.name)
    if namespace.json:
        return _json({"id": namespace.name, "deleted": True})
    return f"{namespace.name}: unloaded"


async def _pin(client: AsyncClient, namespace: argparse.Namespace) -> str:
    change = client.adapters.unpin if namespace.off else client.adapters.pin
    return _told(await change(namespace.name), namespace)


def _told(card: AdapterCard, namespace: argparse.Namespace) -> str:
    return _json(card) if namespace.json else card_line(card)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _with_advice(error: ClientError, namespace: argparse.Namespace) -> str:
    """One line: what is wrong, and what to do about it."""
    if isinstance(error, AdapterExists):
        return (
            f"there is an adapter {namespace.name!r} already; --replace puts another in its place"
        )
    advice = ""
    if isinstance(error, ConnectError):
        advice = "; its address is --url, or LORRY_BASE_URL"
    elif isinstance(error, Unauthorized):
        advice = "; the key is --api-key, or LORRY_API_KEY"
    elif isinstance(error, AdapterNotFound) and namespace.what != "load":  # else it is the source
        advice = "; `lorry adapters list` shows what there is"
    return f"{error}{advice}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry adapters",
        description="Looks at the adapters of a running server, changes them.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="what")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--url", help="the server (default: LORRY_BASE_URL, or port 8000 here)")
    server.add_argument("--api-key", help="default: LORRY_API_KEY")
    server.add_argument("--timeout", type=float, metavar="S", help="at most so long for the answer")
    server.add_argument("--json", action="store_true", help="print the server's answer as JSON")

    def add(name: str, command: object, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[server], help=summary, description=summary)
        added.set_defaults(command=command)
        return added

    add("list", _list, "all adapters, a line for each")
    add("show", _show, "all that is known of one").add_argument("name", metavar="NAME")
    load = add("load", _load, "load an adapter under a name")
    load.add_argument("name", metavar="NAME")
    load.add_argument("source", metavar="SOURCE", help="a path or address, as the server sees it")
    load.add_argument("--replace", action="store_true", help="also where the name is taken")
    load.add_argument("--pinned", action="store_true", help="never take it out of memory")
    load.add_argument(
        "--no-preload",
        action="store_false",
        dest="preload",
        help="load it when the first request asks for it",
    )
    add("unload", _unload, "take a name away").add_argument("name", metavar="NAME")
    pin = add("pin", _pin, "keep an adapter in memory")
    pin.add_argument("name", metavar="NAME")
    pin.add_argument("--off", action="store_true", help="let it make room for others again")
    # never parsed here: `main` hands its arguments over
    check = commands.add_parser("check", add_help=False, help=_CHECK.summary)
    check.add_argument("path", metavar="PATH")  # for shell completion
    return parser
