"""The multi-LoRA product against one token at a time, over popularity and rank."""

from __future__ import annotations

import pytest
import torch

from lorry_server.kernels.lora import lora_add_

RANKS = [4, 1, 16, 7]
ADAPTER_OF_TOKEN = {
    "identical": [0] * 9,
    "distinct": [0, 1, 2, 3],
    "skewed": [2, 2, 2, 0, 2, 2, None, 2],
    "base only": [None] * 5,
    "interleaved": [0, None, 1, 0, None, 3, 1, 0],
}


@pytest.mark.parametrize("popularity", ADAPTER_OF_TOKEN)
@pytest.mark.parametrize("columns", [slice(0, 10), slice(3, 8)], ids=["all", "a slice"])
def test_every_token_gets_its_own_adapter(popularity: str, columns: slice) -> None:
    generator = torch.Generator().manual_seed(0)
    adapter_of_token = ADAPTER_OF_TOKEN[popularity]
    num_out = columns.stop - columns.start
    a = [torch.randn(rank, 5, generator=generator) for rank in RANKS]
    b = [torch.randn(rank, num_out, generator=generator) for rank in RANKS]
    x_TI = torch.randn(len(adapter_of_token), 5, generator=generator)
    y_TO = torch.randn(len(adapter_of_token), 10, generator=generator)
    expected_TO = y_TO.clone()
    for token, adapter in enumerate(adapter_of_token):
        if adapter is not None:
            for row in range(RANKS[adapter]):
                expected_TO[token, columns] += b[adapter][row] * (a[adapter][row] @ x_TI[token])

    for adapter in range(len(RANKS)):
        tokens = [t for t, other in enumerate(adapter_of_token) if other == adapter]
        if tokens:
            covers_all = len(tokens) == len(adapter_of_token)
            tokens_P = None if covers_all else torch.tensor(tokens)
            lora_add_(y_TO[:, columns], x_TI, a[adapter], b[adapter], tokens_P)

    torch.testing.assert_close(y_TO, expected_TO)
