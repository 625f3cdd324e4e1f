"""The multi-LoRA product against one token at a time, over popularity and rank."""

from __future__ import annotations

import pytest
import torch

from lorry_server.kernels.lora import TokenSegment, lora_add_

RANKS = [4, 1, 16, 7]
ADAPTER_OF_TOKEN = {
    "identical": [0] * 9,
    "distinct": [0, 1, 2, 3],
    "skewed": [2, 2, 2, 0, 2, 2, None, 2],
    "base only": [None] * 5,
    "interleaved": [0, None, 1, 0, None, 3, 1, 0],
}


@pytest.mark.parametrize("popularity", ADAPTER_OF_TOKEN)
@pytest.mark.parametrize("slices", [[10], [6, 4, 4]])
def test_every_token_gets_its_own_adapter(popularity: str, slices: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    adapter_of_token = ADAPTER_OF_TOKEN[popularity]
    num_rows, num_out = sum(RANKS), sum(slices)
    a_RSI = torch.randn(num_rows, len(slices), 5, generator=generator)
    b_RSO = torch.zeros(num_rows, len(slices), num_out)
    bounds = torch.cumsum(torch.tensor([0, *slices]), 0).tolist()
    for index in range(len(slices)):
        part = slice(bounds[index], bounds[index + 1])
        b_RSO[:, index, part] = torch.randn(num_rows, slices[index], generator=generator)
    x_TI = torch.randn(len(adapter_of_token), 5, generator=generator)
    y_TO = torch.randn(len(adapter_of_token), num_out, generator=generator)
    starts = torch.cumsum(torch.tensor([0, *RANKS]), 0).tolist()
    expected = y_TO.clone()
    for token, adapter in enumerate(adapter_of_token):
        if adapter is None:
            continue
        for index in range(len(slices)):
            for row in range(starts[adapter], starts[adapter + 1]):
                expected[token] += b_RSO[row, index] * (a_RSI[row, index] @ x_TI[token])
    segments = []
    for adapter in range(len(RANKS)):
        tokens = [t for t, a in enumerate(adapter_of_token) if a == adapter]
        if tokens:
            covers_all = len(tokens) == len(adapter_of_token)
            indices = None if covers_all else torch.tensor(tokens)
            segments.append(TokenSegment(indices, starts[adapter], RANKS[adapter]))

    lora_add_(y_TO, x_TI, a_RSI, b_RSO, segments)

    torch.testing.assert_close(y_TO, expected)
