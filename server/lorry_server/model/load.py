"""`load_model`: from a Hugging Face folder to a `CausalModel` on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from lorry_server.errors import ModelError
from lorry_server.model.arch import is_supported, read_arch
from lorry_server.model.base_weights import CheckpointWeights
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.checkpoint import Checkpoint
from lorry_server.model.decoder import Decoder
from lorry_server.model.hf_config import read_config
from lorry_server.model.weights import EMBEDDING, HEAD, load_weights
from lorry_server.quantization.registry import scheme_named


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: str,
    max_position: int | None = None,
) -> CausalModel:
    """Our own decoder where it knows the architecture, else transformers' with our linears.

    `dtype` is of activations and of all that is not quantized; `quantization` is a name in
    `quantization.registry`; `max_position` as in `read_arch`. Raises `ModelError` that names what
    is wrong with the folder.
    """
    scheme = scheme_named(quantization)
    config = read_config(folder)
    if "auto_map" in config:
        raise ModelError(
            f"{folder}/config.json has auto_map: the model brings its own code, which is not run"
        )
    if not is_supported(config):
        # transformers takes seconds to import, and most models do without it
        from lorry_server.model.fallback import load_fallback

        return load_fallback(folder, dtype=dtype, device=device, scheme=scheme)
    arch = read_arch(config, max_position=max_position)
    with Checkpoint(folder) as checkpoint:
        decoder = Decoder(arch, scheme=scheme, dtype=dtype, device=device)
        load_weights(decoder, checkpoint)
    decoder.base_weights = CheckpointWeights(
        folder, other_names={HEAD: EMBEDDING} if arch.tied_embeddings else {}
    )
    return decoder.eval()
