"""Settings of a load for tests, which change what they are about."""

from __future__ import annotations

from lorry_loadtest.adapter_mix import mix_of
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.prompts import RandomWords
from lorry_loadtest.settings import LoadSettings

LOAD = LoadSettings(
    scenario="test",
    arrival=None,
    adapters=mix_of(["alpha", "beta"]),
    adapter_mix="",
    base_share=0.0,
    prompts=RandomWords(Lengths.const(4)),
    lengths=Lengths.const(12),
    route="completions",
    seed=7,
    canary_share=0.0,
    patience_s=None,
    variants=(),
    length_scale=1.0,
)
