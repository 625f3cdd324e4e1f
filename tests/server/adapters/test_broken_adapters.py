"""Every broken adapter is refused with a message that says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.adapters.checks import AdapterChecks
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.model_facts import ModelFacts, read_model_facts
from lorry_server.text.chat_template import ChatTemplate
from tests.support.broken_adapters import BROKEN
from tests.support.plain_adapters import never, sources_for
from tests.support.sound_adapter import write_sound
from tests.support.tiny_model import write_tiny_model

MAX_MESSAGE = 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def model(base: Path) -> ModelFacts:
    return read_model_facts(base, model_id="llama", dtype="float32", is_quantized=True)


@pytest.fixture(scope="module")
def checks(base: Path, model: ModelFacts) -> AdapterChecks:
    return AdapterChecks(model=model, chat_template=ChatTemplate.from_folder(base))


def check(path: Path, checks: AdapterChecks) -> None:
    """What a server does with the adapter in an allowed folder before it prepares it."""
    sources = sources_for(path.parent / "cache", named=(str(path),))
    folder = sources.fetch(str(path), cancelled=never)
    adapter = read_adapter(folder)
    checks.read_contract(folder)
    checks.examine(adapter)


def test_what_the_broken_ones_are_made_from_is_sound(tmp_path: Path, checks: AdapterChecks) -> None:
    check(write_sound(tmp_path / "sound"), checks)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.timeout(30)
def test_a_broken_adapter_is_refused_with_a_message(
    name: str, tmp_path: Path, checks: AdapterChecks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a pickle that is loaded leaves its mark
    path = BROKEN[name].write(tmp_path / "adapter")

    with pytest.raises(AdapterError) as refused:
        check(path, checks)

    message = str(refused.value)
    assert BROKEN[name].words in message
    assert len(message) <= MAX_MESSAGE
    assert message.isprintable()
    assert not (tmp_path / "a-pickle-was-loaded").exists()
