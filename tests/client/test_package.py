"""The package as a whole: its names, its weight, its command, its event loops."""

from __future__ import annotations

import subprocess
import sys
import typing
from collections.abc import Sequence

import pytest

import lorry
from lorry import cli
from lorry.options import GenerateOptions
from lorry.types.completions import CompletionRequest
from lorry_server.http.unsupported_fields import COMPLETION_FIELDS


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_public_names_are_sorted_and_exist() -> None:
    assert lorry.__all__ == sorted(lorry.__all__)
    assert all(hasattr(lorry, name) for name in lorry.__all__)


def test_every_public_class_is_listed() -> None:
    classes = {
        name for name, item in vars(lorry).items() if isinstance(item, type) and name[0] != "_"
    }

    assert classes <= set(lorry.__all__)


def test_names_that_are_imported_late_are_there_from_the_start() -> None:
    code = "import lorry; print('BatchRun' in dir(lorry), lorry.Poisson(2), callable(lorry.sweep))"

    assert run_python(code).stdout.split() == [
        "True",
        "Poisson(requests_per_s=2,",
        "seed=0)",
        "True",
    ]
    with pytest.raises(AttributeError, match="no attribute 'Posson'"):
        lorry.Posson  # type: ignore[attr-defined]  # noqa: B018  # the point of the test


def test_import_and_construction_pull_in_no_http_library() -> None:
    code = (
        "import lorry, sys; lorry.AsyncClient('http://x', api_key='k'); "
        "heavy = {'lorry.batch', 'lorry.sweep.run', 'aiohttp', 'httpx', 'httpx2', 'pydantic', 'torch', 'starlette', 'numpy', "
        "'openai', 'lorry.openai', 'lorry.testing', 'lorry.transports.replay'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )

    assert run_python(code).stdout.strip() == "[]"


def test_options_are_the_names_of_the_wire() -> None:
    local = {
        *("max_new_tokens", "adapter", "adapter_id", "deadline", "timeout", "token_times"),
        *("request_id", "tag", "extra_body"),
    }
    sent = set(typing.get_type_hints(GenerateOptions)) - local

    assert sent <= set(CompletionRequest.__struct_fields__) | set(COMPLETION_FIELDS)


LOOPS_IN_TURN = """
import asyncio, sys
sys.path.insert(0, ".")
import lorry
from tests.support.fake_llm_server import FakeLLMServer, completion

async def script(request, reply):
    if request.json["prompt"] == "stall":
        await reply.client_left()
    elif request.json.get("stream"):
        await reply.stream(completion("x", finish_reason="stop"))
    else:
        await reply.json(200, completion("x", finish_reason="stop"))

async def use(client, port):
    asyncio.get_running_loop().slow_callback_duration = 60  # the import of aiohttp is no fault here
    async with FakeLLMServer(script, port=port):
        # two places for six: what waits for its turn belongs to a loop too
        whole = await asyncio.gather(*(client.generate("a") for _ in range(6)))
        streamed = await client.stream("a").final()
        mapped = await client.map(["a"] * 3, concurrency=shared)
        leaving = asyncio.ensure_future(client.generate("stall"))
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.wait([leaving])
        try:
            await client.generate("stall", deadline=0.1)
        except lorry.DeadlineExceeded as error:
            limit_s = error.limit_s
        texts = [generation.text for generation in [*whole, streamed, *mapped]]
        print("".join(texts), leaving.cancelled(), limit_s, client.stats().num_in_flight)

async def free_port():
    asyncio.get_running_loop().slow_callback_duration = 60  # nor is a machine that is busy
    async with FakeLLMServer(script) as server:
        return server.port

port = asyncio.run(free_port())
shared = lorry.AdaptiveLimit(min=1, start=1)
limit = [lorry.Limit(2), lorry.RateLimit(requests_per_s=500, burst_s=0.01)]
kept = lorry.AsyncClient(f"http://127.0.0.1:{port}", limit=limit)
for _ in range(3):
    asyncio.run(use(kept, port))
for _ in range(2):
    asyncio.run(use(lorry.AsyncClient(f"http://127.0.0.1:{port}", limit=limit), port))
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_one_client_works_in_several_loops_and_needs_no_closing(loop: str) -> None:
    code = LOOPS_IN_TURN
    if loop == "uvloop":
        code = "import uvloop\n" + code.replace("asyncio.run(", "uvloop.run(")
    done = run_python(code, "-X", "dev", "-W", "error")

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["xxxxxxxxxx True 0.1 0"] * 5


def test_command_lists_its_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert cli.main(["--help"]) == 0

    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("serve", "generate", "chat", "loadtest", "completion", "version")
    )


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0

    assert capsys.readouterr().out.strip() == lorry.__version__


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sing"]) == 2

    assert "'sing'" in capsys.readouterr().err


class FakePackage:
    def __init__(self, *, missing: str | None = None, status: int | None = None) -> None:
        self._missing = missing
        self._status = status
        self.argv: list[str] = []

    def main(self, argv: Sequence[str]) -> int | None:
        self.argv = list(argv)
        if self._missing is not None:
            raise ModuleNotFoundError(f"No module named {self._missing!r}", name=self._missing)
        return self._status


@pytest.mark.parametrize(("status", "code"), [(None, 0), (0, 0), (3, 3)])
def test_subcommand_gets_its_arguments_and_gives_its_status(
    status: int | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = FakePackage(status=status)
    monkeypatch.setitem(sys.modules, "lorry_server.cli", package)

    assert cli.main(["serve", "--port", "0"]) == code
    assert package.argv == ["--port", "0"]


@pytest.mark.parametrize(
    ("command", "module", "missing", "extra"),
    [
        ("serve", "lorry_server.cli", "torch", "server"),
        ("serve", "lorry_server.cli", "starlette.routing", "server"),
        ("finetune", "lorry_server.finetune.cli", "peft", "finetune"),
        ("loadtest", "lorry_loadtest.cli", "locust", "loadtest"),
    ],
)
def test_missing_extra_is_named(
    command: str,
    module: str,
    missing: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = FakePackage(missing=missing)
    monkeypatch.setitem(sys.modules, module, package)

    assert cli.main([command]) == 1
    assert f'needs {missing.split(".")[0]}: pip install "lorry[{extra}]"' in capsys.readouterr().err


def test_missing_module_of_our_own_is_a_bug_and_shows_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = FakePackage(missing="lorry_server.nowhere")
    monkeypatch.setitem(sys.modules, "lorry_server.cli", package)

    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])
