"""`lorry chat`: a conversation in the terminal, whose adapter may change at any line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from lorry.chat_commands import COMMANDS, Chatting, run_command
from lorry.client import AsyncClient
from lorry.command_line import (
    DONE,
    FAILED,
    USAGE_ERROR,
    add_sampling_options,
    add_server_options,
    complain,
    explained,
    for_terminal,
    sampling_options,
    silence_stdout,
    text_or_file,
)
from lorry.conversation import Conversation
from lorry.errors import ClientError, ConfigError
from lorry.generate_cli import title
from lorry.generation import Generation

MAX_HISTORY_LINES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """0 when left by ctrl-D; 1 when the server is not there; 2 for wrong usage.

    From a pipe each line is a question, and an error ends it with 1.
    """
    namespace = make_parser().parse_args(argv)
    is_interactive = sys.stdin.isatty()
    try:
        with asyncio.Runner() as runner:
            return _Repl(runner, namespace, is_interactive=is_interactive).run()
    except ClientError as error:
        complain("chat", explained(error))
        return USAGE_ERROR if isinstance(error, ConfigError) else FAILED
    except BrokenPipeError:
        silence_stdout()
        return FAILED


class _Repl:
    """Reads lines between turns of the event loop: no answer runs while one is typed."""

    def __init__(
        self, runner: asyncio.Runner, namespace: argparse.Namespace, *, is_interactive: bool
    ) -> None:
        self._runner = runner
        self._timings: bool = namespace.timings
        self._history: Path | None = namespace.history
        self._is_interactive = is_interactive
        self._chatting = Chatting(
            AsyncClient(namespace.url, api_key=namespace.api_key, timeout=namespace.timeout),
            Conversation(adapter=namespace.adapter, system=namespace.system),
            options=sampling_options(namespace),
            timings=namespace.timings,
        )

    def run(self) -> int:
        try:
            if self._is_interactive:
                self._greet()
                with _line_editing(self._chatting, self._history):
                    return self._loop()
            return self._loop()
        finally:
            self._runner.run(self._chatting.client.aclose())

    def _greet(self) -> None:
        """Find out whether the server is there before anything is typed."""
        chatting = self._chatting
        self._runner.run(chatting.client.health())
        with contextlib.suppress(ClientError):  # a server without this route can chat all the same
            cards = self._runner.run(chatting.client.adapters.list())
            chatting.adapter_names = [card.id for card in cards]
        print(f"{title(chatting.conversation.adapter)}; /help lists commands, ctrl-D leaves")

    def _loop(self) -> int:
        while True:
            try:
                line = self._read()
            except EOFError:
                if self._is_interactive:
                    print()
                return DONE
            except KeyboardInterrupt:  # at the prompt it only takes the line away
                print()
                continue
            if line.strip() and not self._handle(line.strip()):
                return FAILED

    def _read(self) -> str:
        if self._is_interactive:
            return input(f"{title(self._chatting.conversation.adapter)}> ")
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line

    def _handle(self, line: str) -> bool:
        """Do or answer one line; false when that failed and nobody is there to try again."""
        try:
            if line.startswith("/"):
                self._runner.run(run_command(self._chatting, line))
            else:
                self._answer(line)
        except ClientError as error:
            complain("chat", explained(error))
            return self._is_interactive
        except KeyboardInterrupt:
            print("\nstopped", file=sys.stderr)
            if not self._is_interactive:
                raise
        return True

    def _answer(self, question: str) -> None:
        conversation = self._chatting.conversation
        stream = self._chatting.stream(conversation.asking(question), conversation.adapter)

        async def print_answer() -> Generation:
            async with stream:
                async for piece in stream.text_stream():
                    sys.stdout.write(for_terminal(piece) if sys.stdout.isatty() else piece)
                    sys.stdout.flush()
            return stream.partial

        try:
            answer = self._runner.run(print_answer())
        except KeyboardInterrupt:
            # what was said before ctrl-C was said
            if stream.partial.text:
                conversation.answered(question, stream.partial)
            raise
        finally:
            print()
        conversation.answered(question, answer)
        if self._timings:
            print(f"\n{answer.timing}", file=sys.stderr)


@contextlib.contextmanager
def _line_editing(chatting: Chatting, history: Path | None) -> Iterator[None]:
    """Arrow keys, history and completion while the block runs, where Python has readline."""
    try:
        import readline
    except ModuleNotFoundError:
        yield
        return
    readline.set_completer(_Completer(chatting))
    readline.set_completer_delims(" ")
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    readline.set_history_length(MAX_HISTORY_LINES)
    if history is not None:
        with contextlib.suppress(FileNotFoundError):
            readline.read_history_file(history)
    try:
        yield
    finally:
        readline.set_completer(None)
        if history is not None:
            # what was typed may be private, so nobody else reads it
            history.touch(mode=0o600)
            readline.write_history_file(history)


class _Completer:
    """readline's way to ask: the n-th word that may stand for `text`, None after the last."""

    def __init__(self, chatting: Chatting) -> None:
        self._chatting = chatting

    def __call__(self, text: str, state: int) -> str | None:
        words = COMMANDS if text.startswith("/") else self._chatting.adapter_names
        matches = [word for word in words if word.startswith(text)]
        return matches[state] if state < len(matches) else None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry chat",
        description="A conversation with a model; /help in it lists its commands. Lines from a "
        "pipe are answered one after another.",
    )
    parser.add_argument(
        "--adapter", default="", metavar="ADAPTER", help="who answers (default: the base model)"
    )
    parser.add_argument(
        "--system", type=text_or_file, metavar="TEXT", help="the system message, or @FILE"
    )
    parser.add_argument(
        "--history", type=Path, metavar="FILE", help="keep the lines that are typed in a file"
    )
    parser.add_argument("--timings", action="store_true", help="draw where the time went")
    add_sampling_options(parser)
    add_server_options(parser)
    return parser
