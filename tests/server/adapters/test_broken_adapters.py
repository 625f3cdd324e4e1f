"""Every broken adapter is refused with a message that says what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.adapters.contract import read_contract
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.doctor import examine
from lorry_server.lora.model_facts import ModelFacts, read_model_facts
from lorry_server.text.chat_template import ChatTemplate
from tests.support.broken_adapters import BROKEN, write_sound
from tests.support.tiny_model import write_tiny_model

MAX_MESSAGE = 1000


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def model(base: Path) -> ModelFacts:
    return read_model_facts(base, model_id="llama", dtype="float32", is_quantized=True)


def check(path: Path, base: Path, model: ModelFacts) -> None:
    """What is done with an adapter before it is served."""
    adapter = read_adapter(path)
    contract = read_contract(path)
    if contract is not None:
        contract.try_on(ChatTemplate.from_folder(base))
    report = examine(adapter, model)
    if report.refusal is not None:
        raise AdapterError(report.refusal)


def test_what_the_broken_ones_are_made_from_is_sound(
    tmp_path: Path, base: Path, model: ModelFacts
) -> None:
    check(write_sound(tmp_path / "sound"), base, model)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.timeout(30)
def test_a_broken_adapter_is_refused_with_a_message(
    name: str, tmp_path: Path, base: Path, model: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a pickle that is loaded leaves its mark
    path = BROKEN[name].write(tmp_path / "adapter")

    with pytest.raises(AdapterError) as refused:
        check(path, base, model)

    message = str(refused.value)
    assert BROKEN[name].words in message
    assert len(message) <= MAX_MESSAGE
    assert message.isprintable()
    assert not (tmp_path / "a-pickle-was-loaded").exists()
