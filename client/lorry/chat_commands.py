"""The commands of `lorry chat`: lines that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorry.adapter_report import cards_table
from lorry.client import AsyncClient
from lorry.conversation import Conversation, Message
from lorry.generate_cli import compare, report, title
from lorry.options import GenerateOptions
from lorry.stream import TokenStream


class Chatting:
    """One run of `lorry chat`: the conversation, and how its questions are sent."""

    def __init__(
        self,
        client: AsyncClient,
        conversation: Conversation,
        *,
        options: GenerateOptions,
        timings: bool,
    ) -> None:
        self.client = client
        self.conversation = conversation
        self.adapter_names: Sequence[str] = ()  # as the server last said, for completion
        self._options = options
        self._timings = timings

    def stream(self, messages: Sequence[Message], adapter: str) -> TokenStream:
        """The answer to messages, which has not been asked for yet."""
        options: GenerateOptions = {**self._options, "adapter": adapter}
        return self.client.chat.stream(messages, **options)

    async def compare(self, adapters: Sequence[str]) -> None:
        """Have several answer the last question; the conversation stays as it is."""
        messages = self.conversation.asking_again()
        outcomes = await compare(lambda adapter: self.stream(messages, adapter), adapters)
        report("chat", outcomes, timings=self._timings)

    async def adapters(self) -> None:
        """Show what the server has."""
        cards = await self.client.adapters.list()
        self.adapter_names = [card.id for card in cards]
        print(cards_table(cards))


@dataclass(frozen=True, slots=True)
class Command:
    """`run` gets what stands behind the name, "" if nothing."""

    usage: str
    summary: str
    run: Callable[[Chatting, str], Awaitable[None]]


async def _adapter(chatting: Chatting, argument: str) -> None:
    chatting.conversation.adapter = argument
    print(f"answered by: {title(argument)}")


async def _adapters(chatting: Chatting, argument: str) -> None:
    await chatting.adapters()


async def _system(chatting: Chatting, argument: str) -> None:
    chatting.conversation.system = argument or None
    print("system message set" if argument else "no system message")


async def _reset(chatting: Chatting, argument: str) -> None:
    chatting.conversation.reset()
    print("forgotten what was said")


async def _save(chatting: Chatting, argument: str) -> None:
    if not argument:
        _complain("/save needs a file")
        return
    try:
        chatting.conversation.save(Path(argument))
    except OSError as error:
        _complain(f"cannot write {argument!r}: {error.strerror}")
        return
    print(f"saved to {argument}")


async def _compare(chatting: Chatting, argument: str) -> None:
    adapters = argument.split()
    if len(adapters) < 2:
        _complain("/compare needs the names of two adapters or more; - is the base model")
    elif chatting.conversation.last_question is None:
        _complain("there is no question yet that they could answer")
    else:
        await chatting.compare(["" if adapter == "-" else adapter for adapter in adapters])


async def _help(chatting: Chatting, argument: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        print(f"{command.usage:<{width}}  {command.summary}")
    print("ctrl-C stops an answer; ctrl-D leaves")


COMMANDS = {
    "/adapter": Command(
        "/adapter [NAME]", "who answers from now on; without a name the base model", _adapter
    ),
    "/adapters": Command("/adapters", "what the server has", _adapters),
    "/system": Command("/system [TEXT]", "set the system message, or take it away", _system),
    "/reset": Command("/reset", "forget what was said", _reset),
    "/save": Command("/save FILE", "write the conversation as a line of JSON", _save),
    "/compare": Command("/compare A B ...", "have these answer your last question", _compare),
    "/help": Command("/help", "this list", _help),
}


async def run_command(chatting: Chatting, line: str) -> None:
    """Do what a line with a slash says; a wrong one is named and does nothing."""
    name, _, argument = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        _complain(f"there is no command {name!r}; /help lists them")
    else:
        await command.run(chatting, argument.strip())


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
