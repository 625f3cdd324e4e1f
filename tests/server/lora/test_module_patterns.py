"""Plain names in `rank_pattern` and `alpha_pattern` mean what they mean to PEFT."""

from __future__ import annotations

import pytest
from peft.utils.other import get_pattern_key

from lorry_server.lora.module_patterns import first_match, is_plain

MODULES = [
    "lm_head",
    "model.embed_tokens",
    *(
        f"model.layers.{layer}.{module}"
        for layer in (0, 1, 10, 11)
        for module in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj")
    ),
    "model.layers_1.self_attn.q_proj",
    "model.layers.1.self_attn.qq_proj",
    "model.layers.1xself_attn.q_proj",
]
PATTERNS = [
    "q_proj",
    "proj",
    "self_attn.q_proj",
    "layers.1.self_attn.q_proj",
    "layers.1.self_attn.q_proj$",
    "^layers.1.self_attn.q_proj",
    "^model.layers.1.self_attn.q_proj$",
    "model.layers.1.self_attn.q_proj",
    ".q_proj",
    "layers.1.mlp.down_proj",
    "....",
    "lm_head",
    "^lm_head$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_plain_pattern_names_the_modules_that_peft_finds(pattern: str) -> None:
    assert is_plain(pattern)
    for module in MODULES:
        theirs = get_pattern_key([pattern], module)
        ours = first_match([pattern], module)

        # PEFT answers with the module itself where no pattern matches.
        assert (ours or module) == theirs, module


def test_the_first_of_several_patterns_decides() -> None:
    for module in MODULES:
        assert (first_match(PATTERNS, module) or module) == get_pattern_key(PATTERNS, module)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "q_proj|k_proj", ".*q_proj", "q\\d", "", "^", "x" * 257]
)
def test_an_expression_is_not_a_plain_name(pattern: str) -> None:
    assert not is_plain(pattern)
