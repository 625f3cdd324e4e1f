"""`lorry.json`: what is taken, shown and refused, and how a chat is made with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lorry_server.adapters.contract import read_contract
from lorry_server.errors import AdapterError, RequestError
from lorry_server.lora.adapter_files import TEMPLATE_FILE
from lorry_server.text.chat_template import ChatTemplate
from tests.support.chat_templates import CHATML, GEMMA

WHOLE = {
    "description": "Speaks like a pirate.",
    "system_prompt": "You are a pirate.",
    "chat_template": "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n"
    "{% endfor %}{{ eos_token }}",
    "sampling": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05},
    "stop": ["\n\n"],
    "max_tokens": 64,
    "max_tokens_ceiling": 256,
    "base_fingerprint": "0123456789abcdef-0123456789abcdef",
}
QUESTION = {"role": "user", "content": "Who are you?"}


def write(folder: Path, **values: Any) -> Path:
    (folder / "lorry.json").write_text(json.dumps(values))
    return folder


def test_a_folder_without_a_contract_has_none(tmp_path: Path) -> None:
    assert read_contract(tmp_path) is None


def test_an_empty_contract_asks_for_nothing(tmp_path: Path) -> None:
    contract = read_contract(write(tmp_path))

    assert contract is not None
    assert contract.card() == {}
    assert contract.with_system_prompt([QUESTION]) == [QUESTION]


def test_everything_that_is_written_is_shown_and_of_the_template_that_there_is_one(
    tmp_path: Path,
) -> None:
    contract = read_contract(write(tmp_path, **WHOLE))

    assert contract is not None
    assert contract.card() == WHOLE | {"chat_template": True}


def test_the_template_knows_the_special_tokens_of_the_model(tmp_path: Path) -> None:
    contract = read_contract(write(tmp_path, **WHOLE), tokens={"eos_token": "<|end|>"})

    assert contract is not None
    assert contract.template is not None
    chat = contract.with_system_prompt([QUESTION])
    assert contract.template.render(chat, add_generation_prompt=True) == (
        "[system] You are a pirate.\n[user] Who are you?\n<|end|>"
    )


def test_the_template_may_be_a_file_beside_the_contract(tmp_path: Path) -> None:
    (tmp_path / TEMPLATE_FILE).write_text("{{ messages[0].content }}!")
    contract = read_contract(write(tmp_path, chat_template={"file": TEMPLATE_FILE}))

    assert contract is not None
    assert contract.template is not None
    assert contract.template.render([QUESTION], add_generation_prompt=True) == "Who are you?!"


@pytest.mark.parametrize("name", ["../chat.jinja", "/etc/hostname", "chat.jinja", "", "x\0y"])
def test_the_template_cannot_be_a_file_of_another_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "chat.jinja").write_text("x")
    folder = tmp_path / "adapter"
    folder.mkdir()

    with pytest.raises(AdapterError, match="a file beside it"):
        read_contract(write(folder, chat_template={"file": name}))


def test_the_template_cannot_be_a_link_to_another_file(tmp_path: Path) -> None:
    (tmp_path / TEMPLATE_FILE).symlink_to("/etc/hostname")

    with pytest.raises(AdapterError, match="a file beside it"):
        read_contract(write(tmp_path, chat_template={"file": TEMPLATE_FILE}))


def test_an_error_in_the_template_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"chat_template.*the adapter's.*line 3.*endfr"):
        read_contract(
            write(tmp_path, chat_template="{{ bos_token }}\n{% for m in messages %}\n{% endfr %}")
        )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sytem_prompt": "x"}, "unknown field `sytem_prompt`"),
        ({"sampling": {"beam": 3}}, r"unknown field `beam` - at `\$.sampling`"),
        ({"sampling": {"temperature": 2.1}}, r"<= 2.0 - at `\$.sampling.temperature`"),
        ({"sampling": {"temperature": "hot"}}, r"\$.sampling.temperature"),
        ({"sampling": {"repetition_penalty": 0}}, r"\$.sampling.repetition_penalty"),
        ({"max_tokens": 0}, r"\$.max_tokens"),
        ({"max_tokens": True}, r"\$.max_tokens"),
        ({"max_tokens": 9, "max_tokens_ceiling": 8}, r"`max_tokens` \(9\) is more than"),
        ({"stop": "x"}, r"\$.stop"),
        ({"stop": ["x"] * 17}, "`stop` may hold at most 16"),
        ({"stop": ["x" * 1025]}, "`stop` strings have 1 to 1024 bytes"),
        ({"stop": ["\ud800"]}, "half a surrogate pair"),
        ({"system_prompt": "x" * 70_000}, "`system_prompt` has more than"),
        ({"base_fingerprint": "abc"}, "`base_fingerprint` must be"),
    ],
)
def test_a_value_that_no_request_could_have_is_refused_by_name(
    tmp_path: Path, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        read_contract(write(tmp_path, **values))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(tmp_path: Path, number: str) -> None:
    (tmp_path / "lorry.json").write_text(f'{{"sampling": {{"temperature": {number}}}}}')

    with pytest.raises(AdapterError, match="not a number of JSON"):
        read_contract(tmp_path)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_requests_own_system_message_takes_the_place_of_the_contracts(
    tmp_path: Path, role: str
) -> None:
    contract = read_contract(write(tmp_path, system_prompt="You are a pirate."))
    own = {"role": role, "content": "You are a lawyer."}

    assert contract is not None
    assert contract.with_system_prompt([QUESTION, own]) == [QUESTION, own]
    assert contract.with_system_prompt([QUESTION]) == [
        {"role": "system", "content": "You are a pirate."},
        QUESTION,
    ]


def test_a_system_prompt_that_the_models_template_refuses_is_refused_at_load(
    tmp_path: Path,
) -> None:
    contract = read_contract(write(tmp_path, system_prompt="You are a pirate."))

    assert contract is not None
    contract.try_on(ChatTemplate(CHATML))
    with pytest.raises(AdapterError, match="its system_prompt and a user's message"):
        contract.try_on(ChatTemplate(GEMMA))


def test_a_system_prompt_without_any_template_is_refused(tmp_path: Path) -> None:
    contract = read_contract(write(tmp_path, system_prompt="You are a pirate."))

    assert contract is not None
    with pytest.raises(AdapterError, match="needs a chat template"):
        contract.try_on(None)


def test_a_template_that_would_run_for_years_is_given_up(tmp_path: Path) -> None:
    loops = "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4
    contract = read_contract(write(tmp_path, chat_template=loops))

    assert contract is not None
    assert contract.template is not None
    with pytest.raises(RequestError, match="given up after 1 s"):
        contract.template.render([QUESTION], add_generation_prompt=True)
