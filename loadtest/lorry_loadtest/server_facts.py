"""What a server says of itself: its version, and how its weights are stored and computed with."""

from __future__ import annotations

import msgspec


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Each is empty where the server does not tell. `commit` is of its source."""

    version: str = ""
    commit: str = ""
    dtype: str = ""
    device: str = ""
    quantization: str = ""

    @property
    def weights(self) -> str:
        """`int8, float32, cpu`: what of it is told."""
        quantized = "not quantized" if self.quantization == "none" else self.quantization
        return ", ".join(word for word in (quantized, self.dtype, self.device) if word)

    @property
    def program(self) -> str:
        """`0.3.0 (1a2b3c4d5e6f)`: what of it is told."""
        commit = f"({self.commit[:12]})" if self.commit else ""
        return " ".join(word for word in (self.version, commit) if word)
