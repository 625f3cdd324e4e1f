"""Examples are the ids that the server computes with: a request's prompt, then the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.errors import ModelError
from lorry_server.finetune.data import Completion, Conversation, DataError, PlainText
from lorry_server.finetune.encoding import ExampleEncoder, read_dataset
from lorry_server.text.chat_template import ChatTemplate, render_chat
from lorry_server.text.tokenizer import Tokenizer
from tests.support.finetuning import write_jsonl
from tests.support.tiny_model import tiny_tokenizer, write_tiny_model

END = 2  # <|im_end|>


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def make_encoder(
    folder: Path, *, max_length: int = 200, learn_prompt: bool = False
) -> ExampleEncoder:
    return ExampleEncoder(
        Tokenizer.from_folder(folder),
        ChatTemplate.from_folder(folder),
        max_length=max_length,
        learn_prompt=learn_prompt,
    )


def chat(*contents: str) -> Conversation:
    roles = ("user", "assistant")
    return Conversation(
        tuple({"role": roles[i % 2], "content": text} for i, text in enumerate(contents))
    )


def test_answer_follows_the_prompt_of_a_request_and_ends_as_answers_end(
    folder: Path, tokenizer: Tokenizer
) -> None:
    (example,) = make_encoder(folder).encode(chat("the sea?", "the thing"))

    prompt_ids = render_chat(
        tokenizer,
        ChatTemplate.from_folder(folder),
        [{"role": "user", "content": "the sea?"}],
        add_generation_prompt=True,
        continue_final_message=False,
    )
    assert list(example.token_ids[: example.learn_from]) == prompt_ids
    answer_ids = list(example.token_ids[example.learn_from :])
    assert tokenizer.decode(answer_ids, skip_special_tokens=False) == "the thing<|im_end|>"


def test_each_answer_of_a_conversation_is_an_example_behind_what_precedes_it(
    folder: Path, tokenizer: Tokenizer
) -> None:
    first, second = make_encoder(folder).encode(chat("a", "b", "c", "d"))

    assert tokenizer.decode(list(first.token_ids), skip_special_tokens=False) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    )
    assert tokenizer.decode(list(second.token_ids), skip_special_tokens=False).endswith(
        "assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>"
    )
    assert tokenizer.decode(list(second.token_ids[second.learn_from :])) == "d"


def test_answer_that_spells_a_control_token_does_not_become_one(
    folder: Path, tokenizer: Tokenizer
) -> None:
    (example,) = make_encoder(folder).encode(chat("a", "b<|im_end|>c"))

    answer_ids = example.token_ids[example.learn_from :]
    assert answer_ids.count(END) == 1
    assert answer_ids[-1] == END
    assert tokenizer.decode(list(answer_ids[:-1])) == "b<|im_end|>c"


def test_end_token_is_the_one_that_the_template_writes_behind_an_answer(folder: Path) -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), eos_token_ids=(0, 1, 2))
    template = ChatTemplate.from_folder(folder)

    encoder = ExampleEncoder(tokenizer, template, max_length=99, learn_prompt=False)

    assert encoder.encode(chat("a", "b"))[0].token_ids[-1] == 2
    assert encoder.encode(PlainText("a"))[0].token_ids[-1] == 0


def test_template_that_writes_an_old_answer_otherwise_still_gets_the_requests_prompt(
    folder: Path, tokenizer: Tokenizer
) -> None:
    template = ChatTemplate(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\nthinking{% endif %}"
    )
    encoder = ExampleEncoder(tokenizer, template, max_length=99, learn_prompt=False)

    (example,) = encoder.encode(chat("a", "b"))

    assert tokenizer.decode(list(example.token_ids), skip_special_tokens=False) == (
        "<|im_start|>user\na<|im_end|><|im_start|>assistant\nthinkingb<|im_end|>"
    )
    assert tokenizer.decode(list(example.token_ids[example.learn_from :])) == "b"


def test_completion_continues_its_prompt_and_only_it_is_learned(
    folder: Path, tokenizer: Tokenizer
) -> None:
    (example,) = make_encoder(folder).encode(Completion("is it", " the sea"))

    assert list(example.token_ids[: example.learn_from]) == tokenizer.encode("is it")
    assert tokenizer.decode(list(example.token_ids[example.learn_from : -1])) == " the sea"
    assert example.token_ids[-1] == END


def test_completion_that_would_merge_with_its_prompt_is_encoded_by_itself(
    folder: Path, tokenizer: Tokenizer
) -> None:
    assert tokenizer.encode("he")[:1] != tokenizer.encode("h")  # one token in one piece

    (example,) = make_encoder(folder).encode(Completion("h", "e"))

    assert list(example.token_ids[:-1]) == tokenizer.encode("h") + tokenizer.encode("e")


def test_text_is_learned_whole_and_prompts_are_when_asked_for(folder: Path) -> None:
    encoder = make_encoder(folder, learn_prompt=True)

    assert make_encoder(folder).encode(PlainText("the sea"))[0].learn_from == 0
    assert [example.learn_from for example in encoder.encode(chat("a", "b"))] == [0]
    assert encoder.encode(Completion("a", "b"))[0].learn_from == 0


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (chat("a"), "the last message must be the assistant's"),
        (chat("a", "b", "c"), "the last message must be the assistant's"),
        (chat("a", " "), r"messages\[1\] of the assistant is empty"),
        (Conversation(()), "messages must have at least one message"),
        (Conversation(({"role": "assistant", "content": "b"},)), "at least one message"),
        (Conversation(({"role": "robot", "content": "b"},)), r"messages\[0\].role must be one of"),
        (Conversation(({"role": "user", "content": ["b"]},)), r"messages\[0\].content must be"),
        (PlainText("abc" * 100), "301 tokens, and at most 200 are taken"),
        (PlainText("\ud800"), "not valid Unicode"),
    ],
)
def test_line_that_cannot_be_learned_from_says_why(
    folder: Path, tmp_path: Path, shape: Conversation | PlainText, reason: str
) -> None:
    row = (
        {"text": shape.text}
        if isinstance(shape, PlainText)
        else {"messages": [dict(message) for message in shape.messages]}
    )
    path = write_jsonl(tmp_path / "x.jsonl", [{"text": "good"}, row])

    with pytest.raises(DataError, match=rf"x\.jsonl: 1 of 2 lines .*\n  line 2: .*{reason}"):
        read_dataset(path, make_encoder(folder), skip_bad_lines=False)


def test_bad_lines_are_left_out_when_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": "good"}, {"what": 1}, {"messages": []}, {"id": 3, "text": "good"}]
    path = write_jsonl(tmp_path / "x.jsonl", rows)

    dataset = read_dataset(path, make_encoder(folder), skip_bad_lines=True)

    assert len(dataset.lines) == 2
    assert sorted(line.number for line in dataset.bad_lines) == [2, 3]
    assert dataset.ignored_keys == ("id",)


@pytest.mark.parametrize("contents", [b"", b"\n\n"])
def test_file_without_lines_is_refused(folder: Path, tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(contents)

    with pytest.raises(DataError, match=r"x\.jsonl has nothing to learn from"):
        read_dataset(path, make_encoder(folder), skip_bad_lines=False)


def test_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: No such file"):
        read_dataset(tmp_path / "nowhere", make_encoder(folder), skip_bad_lines=False)


def test_model_without_an_end_token_is_refused() -> None:
    tokenizer = Tokenizer(tiny_tokenizer(), eos_token_ids=())

    with pytest.raises(ModelError, match="no end token"):
        ExampleEncoder(tokenizer, None, max_length=9, learn_prompt=False)
