"""Adapters that are broken in every way that we could think of, and what must be said of each.

`BROKEN` has them by name: `write(path)` makes the folder, `words` stand in the refusal. They are
written without PEFT, which could not write most of them, in milliseconds, for the tiny Llama of
`tests.support.tiny_model`; another `Shape` makes them for another model.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.sound_adapter import (
    CONFIG,
    TINY,
    WEIGHTS,
    Header,
    Shape,
    file_of,
    save_tensors,
    sound_config,
    sound_tensors,
    write_config,
    write_sound,
)

CONTRACT = "lorry.json"


@dataclass(frozen=True, slots=True)
class Broken:
    """`make(path, shape)` writes the folder. `words` stand in the message of the refusal."""

    make: Callable[[Path, Shape], None]
    words: str

    def write(self, path: Path, shape: Shape = TINY) -> Path:
        self.make(path, shape)
        return path


def config(**changes: Any) -> Callable[[Path, Shape], None]:
    """A configuration with other values; `...` takes the key out."""

    def make(path: Path, shape: Shape) -> None:
        write_sound(path, shape)
        values = sound_config(shape) | changes
        kept = {key: value for key, value in values.items() if value is not ...}
        (path / CONFIG).write_text(json.dumps(kept))

    return make


def config_text(text: Callable[[str], str]) -> Callable[[Path, Shape], None]:
    """A configuration's text, changed."""

    def make(path: Path, shape: Shape) -> None:
        write_sound(path, shape)
        file = path / CONFIG
        file.write_text(text(file.read_text()))

    return make


def weights(data: Callable[[bytes], bytes]) -> Callable[[Path, Shape], None]:
    """The bytes of the weights' file, changed."""

    def make(path: Path, shape: Shape) -> None:
        write_sound(path, shape)
        file = path / WEIGHTS
        file.write_bytes(data(file.read_bytes()))

    return make


def header(change: Callable[[Header], Any]) -> Callable[[Path, Shape], None]:
    """The header, changed in place or replaced by what `change` returns; the data stay."""

    def make(path: Path, shape: Shape) -> None:
        write_sound(path, shape)
        file = path / WEIGHTS
        raw = file.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        values = json.loads(raw[8 : 8 + length])
        replaced = change(values)
        file.write_bytes(file_of(values if replaced is None else replaced, raw[8 + length :]))

    return make


def first_tensor(**changes: Any) -> Callable[[Path, Shape], None]:
    """Other values in the header's entry of the first tensor."""
    return header(lambda values: next(iter(values.values())).update(changes))


def tensors(
    change: Callable[[dict[str, np.ndarray], Shape], Any], **changes: Any
) -> Callable[[Path, Shape], None]:
    """Other tensors in a sound file, and with them another configuration."""

    def make(path: Path, shape: Shape) -> None:
        path.mkdir(parents=True)
        write_config(path, shape, **changes)
        values = sound_tensors(shape)
        replaced = change(values, shape)
        save_tensors(path, values if replaced is None else replaced)

    return make


def first_value(value: float) -> Callable[[Path, Shape], None]:
    def spoil(values: dict[str, np.ndarray], shape: Shape) -> None:
        next(iter(values.values()))[0, 0] = value

    return tensors(spoil)


def renamed(old: str, new: str) -> Callable[[Path, Shape], None]:
    return tensors(
        lambda values, shape: {name.replace(old, new): v for name, v in values.items()},
        target_modules="all-linear",
    )


def contract(content: Any) -> Callable[[Path, Shape], None]:
    """A sound adapter with this lorry.json: an object, or its text."""

    def make(path: Path, shape: Shape) -> None:
        write_sound(path, shape)
        text = content if isinstance(content, str) else json.dumps(content)
        (path / CONTRACT).write_text(text)

    return make


def no_config(path: Path, shape: Shape) -> None:
    write_sound(path, shape)
    (path / CONFIG).unlink()


def config_is_a_folder(path: Path, shape: Shape) -> None:
    no_config(path, shape)
    (path / CONFIG).mkdir()


def no_weights(path: Path, shape: Shape) -> None:
    write_sound(path, shape)
    (path / WEIGHTS).unlink()


def weights_are_a_pipe(path: Path, shape: Shape) -> None:
    no_weights(path, shape)
    os.mkfifo(path / WEIGHTS)


def pickle_only(path: Path, shape: Shape) -> None:
    no_weights(path, shape)
    (path / "adapter_model.bin").write_bytes(pickle.dumps(RunsCode()))


class RunsCode:
    """A pickle of this leaves a file behind when somebody loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("a-pickle-was-loaded",))


def huge_rank(values: dict[str, np.ndarray], shape: Shape) -> dict[str, np.ndarray]:
    rank = 4096
    return {
        name: np.ones(
            (rank, shape.hidden_size) if "lora_A" in name else (shape.hidden_size, rank)
        ).astype(np.float32)
        for name in values
    }


def wider(values: dict[str, np.ndarray], shape: Shape) -> dict[str, np.ndarray]:
    """As for a model of twice the width."""
    return {
        name: np.concatenate([v, v], axis=1 if "lora_A" in name else 0)
        for name, v in values.items()
    }


def drop_first(values: dict[str, np.ndarray], shape: Shape) -> None:
    del values[next(iter(values))]


def shorten_first(values: dict[str, np.ndarray], shape: Shape) -> None:
    name = next(iter(values))
    values[name] = values[name][: shape.rank - 1].copy()


def integers(values: dict[str, np.ndarray], shape: Shape) -> None:
    name = next(iter(values))
    values[name] = np.ones(values[name].shape, dtype=np.int32)


def three_dimensions(values: dict[str, np.ndarray], shape: Shape) -> None:
    name = next(iter(values))
    values[name] = values[name][None]


def stranger(values: dict[str, np.ndarray], shape: Shape) -> None:
    values["base_model.model.model.layers.0.self_attn.q_proj.ia3_l"] = np.ones((4, 4), np.float32)


def one_layer_more(values: dict[str, np.ndarray], shape: Shape) -> None:
    for name in [name for name in values if ".layers.0." in name]:
        values[name.replace(".layers.0.", ".layers.77.")] = values[name]


def overlapping(values: Header) -> None:
    first, second, *_ = values.values()
    second["data_offsets"] = [
        first["data_offsets"][0],
        first["data_offsets"][0] + second["data_offsets"][1] - second["data_offsets"][0],
    ]


NESTED = 200_000

BROKEN: dict[str, Broken] = {
    # the configuration
    "no config": Broken(no_config, "no adapter_config.json"),
    "config is a folder": Broken(config_is_a_folder, "adapter_config.json"),
    "config is empty": Broken(config_text(lambda text: ""), "not valid JSON"),
    "config is cut off": Broken(config_text(lambda text: text[: len(text) // 2]), "not valid JSON"),
    "config is a list": Broken(config_text(lambda text: f"[{text}]"), "must hold a JSON object"),
    "config is nested deeply": Broken(
        config_text(lambda text: "[" * NESTED + "]" * NESTED), "not valid JSON"
    ),
    "config is huge": Broken(config(comment="x" * (2 << 20)), "1048576"),
    "config is not text": Broken(config_text(lambda text: text + "\x00"), "not valid JSON"),
    "number of ten thousand digits": Broken(
        config_text(lambda text: text.replace('"lora_alpha": 8', f'"lora_alpha": {"9" * 10_000}')),
        "not valid JSON",
    ),
    "another method": Broken(config(peft_type="IA3"), "peft_type='IA3'"),
    "no method": Broken(config(peft_type=...), "peft_type=None"),
    "unsupported option": Broken(config(use_qalora=True), "use_qalora=True"),
    "unsupported option of a megabyte": Broken(
        config(layer_replication=[[0, 1]] * 50_000), "layer_replication"
    ),
    "alpha is NaN": Broken(config(lora_alpha=float("nan")), "lora_alpha"),
    "alpha is infinite": Broken(config(lora_alpha=float("inf")), "lora_alpha"),
    "alpha is text": Broken(config(lora_alpha="8"), "lora_alpha"),
    "alpha is missing": Broken(config(lora_alpha=...), "lora_alpha"),
    "alpha has 400 digits": Broken(config(lora_alpha=10**400), "lora_alpha"),
    "alpha overflows float32": Broken(config(lora_alpha=1e300), "lora_alpha"),
    "rank is negative": Broken(config(r=-4), "r=-4"),
    "rank is zero": Broken(config(r=0), "r=0"),
    "rank is a list": Broken(config(r=[4]), "r=[4]"),
    "rank differs from the tensors": Broken(config(r=8), "rank 4"),
    "rank pattern is a regex bomb": Broken(
        config(rank_pattern={"(a+)+$": 8}), "not a plain module name"
    ),
    "alpha pattern is a regex bomb": Broken(
        config(alpha_pattern={"(.*.*.*.*)*x": 8}), "not a plain module name"
    ),
    "rank pattern is a list": Broken(config(rank_pattern=["q_proj"]), "rank_pattern"),
    "rank pattern has 400 digits": Broken(config(rank_pattern={"q_proj": 10**400}), "rank_pattern"),
    "alpha pattern is NaN": Broken(config(alpha_pattern={"q_proj": float("nan")}), "alpha_pattern"),
    # the file of weights
    "no weights": Broken(no_weights, "adapter_model.safetensors"),
    "weights are a named pipe": Broken(weights_are_a_pipe, "adapter_model.safetensors"),
    "pickle": Broken(pickle_only, "a pickle"),
    "pickle under another name": Broken(
        weights(lambda data: pickle.dumps(RunsCode())), "not a valid safetensors file"
    ),
    "weights are empty": Broken(weights(lambda data: b""), "not a valid safetensors file"),
    "weights are four bytes": Broken(
        weights(lambda data: data[:4]), "not a valid safetensors file"
    ),
    "weights are cut off": Broken(
        weights(lambda data: data[: len(data) // 2]), "not a valid safetensors file"
    ),
    "weights miss the last byte": Broken(
        weights(lambda data: data[:-1]), "not a valid safetensors file"
    ),
    "weights have a byte more": Broken(
        weights(lambda data: data + b"\0"), "not a valid safetensors file"
    ),
    "header of 2^63 bytes": Broken(
        weights(lambda data: struct.pack("<Q", 2**63) + data[8:]), "not a valid safetensors file"
    ),
    "header longer than the file": Broken(
        weights(lambda data: struct.pack("<Q", len(data)) + data[8:]),
        "not a valid safetensors file",
    ),
    "header is no JSON": Broken(header(lambda values: "{"), "not a valid safetensors file"),
    "header is a list": Broken(header(lambda values: [values]), "not a valid safetensors file"),
    "header is nested deeply": Broken(
        header(lambda values: '{"a":' * NESTED + "1" + "}" * NESTED),
        "not a valid safetensors file",
    ),
    "header of a million brackets": Broken(
        header(lambda values: "[" * 1_000_000), "not a valid safetensors file"
    ),
    "header of empty tensors": Broken(
        header(
            lambda values: {
                f"base_model.model.t{index}.lora_A.weight": {
                    "dtype": "F32",
                    "shape": [0],
                    "data_offsets": [0, 0],
                }
                for index in range(70_000)
            }
        ),
        "not a valid safetensors file",
    ),
    "tensors overlap": Broken(header(overlapping), "not a valid safetensors file"),
    "offsets outside the file": Broken(
        first_tensor(data_offsets=[0, 2**40]), "not a valid safetensors file"
    ),
    "offsets the wrong way round": Broken(
        first_tensor(data_offsets=[64, 0]), "not a valid safetensors file"
    ),
    "negative shape": Broken(first_tensor(shape=[-4, -64]), "not a valid safetensors file"),
    "shape that overflows": Broken(
        first_tensor(shape=[2**62, 2**62, 16]), "not a valid safetensors file"
    ),
    "shape of fractions": Broken(first_tensor(shape=[0.5, 8]), "not a valid safetensors file"),
    "unknown dtype": Broken(first_tensor(dtype="F3"), "not a valid safetensors file"),
    # the tensors
    "no tensors": Broken(tensors(lambda values, shape: {}), "holds no tensors"),
    "NaN": Broken(first_value(float("nan")), "layers.0.self_attn.q_proj.lora_A.weight"),
    "infinity": Broken(first_value(float("-inf")), "layers.0.self_attn.q_proj.lora_A.weight"),
    "integers": Broken(tensors(integers), "layers.0.self_attn.q_proj.lora_A"),
    "three dimensions": Broken(tensors(three_dimensions), "layers.0.self_attn.q_proj.lora_A"),
    "half a pair": Broken(tensors(drop_first), "only one of lora_A, lora_B"),
    "unequal halves": Broken(tensors(shorten_first), "in lora_A and 4 in lora_B"),
    "huge rank": Broken(tensors(huge_rank, r=4096), "has rank 4096"),
    "a tensor of another method": Broken(tensors(stranger), "ia3_l"),
    # the model
    "another width": Broken(tensors(wider), "another shape"),
    "another architecture": Broken(renamed("model.layers.", "transformer.h."), "match no layer"),
    "layers under another prefix": Broken(
        renamed("base_model.model.model.", "base_model.model.model.language_model."),
        "'model.language_model.layers'",
    ),
    "prefix twice": Broken(
        renamed("base_model.model.", "base_model.model.base_model.model."), "match no layer"
    ),
    "prefix missing": Broken(
        renamed("base_model.model.model.", "base_model.model."), "its layers are called 'layers'"
    ),
    "a module of another family": Broken(renamed("q_proj", "qkv_proj"), "'self_attn.qkv_proj'"),
    "a layer too many": Broken(tensors(one_layer_more), "not one with the number 77"),
    "another base": Broken(
        contract({"base_fingerprint": "0123456789abcdef-0123456789abcdef"}), "of another shape"
    ),
    # the contract
    "contract is no JSON": Broken(contract("{"), "not valid JSON"),
    "contract is a list": Broken(contract([]), "lorry.json"),
    "contract is huge": Broken(contract({"description": "x" * (300 << 10)}), "larger than"),
    "contract is nested deeply": Broken(
        contract('{"a":' * 40_000 + "1" + "}" * 40_000), "not valid JSON"
    ),
    "contract with an unknown field": Broken(contract({"sytem_prompt": "x"}), "`sytem_prompt`"),
    "contract with a key twice": Broken(
        contract('{"max_tokens": 1, "max_tokens": 2}'), "'max_tokens' is there twice"
    ),
    "temperature too high": Broken(contract({"sampling": {"temperature": 9}}), "temperature"),
    "sampling unknown": Broken(contract({"sampling": {"tempreture": 1}}), "`tempreture`"),
    "default above the ceiling": Broken(
        contract({"max_tokens": 9, "max_tokens_ceiling": 8}), "max_tokens_ceiling"
    ),
    "too many stop strings": Broken(contract({"stop": ["x"] * 17}), "`stop`"),
    "empty stop string": Broken(contract({"stop": [""]}), "`stop`"),
    "template with an error": Broken(
        contract({"chat_template": "{{ bos_token }}\n{% if %}"}), "line 2"
    ),
    "template that never ends": Broken(
        contract(
            {
                "chat_template": "{% for a in range(99999) %}{% for b in range(99999) %}"
                "{% endfor %}{% endfor %}"
            }
        ),
        "given up after",
    ),
    "template that fills the memory": Broken(
        contract({"chat_template": "{{ 'x' * 99999999999 }}"}), "would be too large"
    ),
    "template of a number without end": Broken(
        contract({"chat_template": "{{ 10 ** 99999999 }}"}), "would be too large"
    ),
    "template that refuses everything": Broken(
        contract({"chat_template": "{{ raise_exception('no chat') }}"}), "no chat"
    ),
    "template of Python's internals": Broken(
        contract({"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}),
        "lorry.json",
    ),
    "template elsewhere": Broken(
        contract({"chat_template": {"file": "../../../etc/passwd"}}), "a file beside it"
    ),
    "template is missing": Broken(
        contract({"chat_template": {"file": "chat_template.jinja"}}), "there is no"
    ),
}
