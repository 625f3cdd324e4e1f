"""Decoders that transformers knows and we do not: its modules, our attention and our linears.

transformers lets a function take the place of a model's attention; ours hands queries, keys and
values to the step's `AttentionBackend`. Each `nn.Linear` becomes our `Linear`, so quantization and
adapters work as in `Decoder`. It dispatches more operations for each layer and so is slower.

Shape legend: T tokens of the step, D hidden size, N query heads (in logits: rows), K key and value
heads, H head size, V vocabulary; 1 is transformers' batch dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D
from transformers.utils.generic import ModelOutput

from lorry_server.errors import ModelError
from lorry_server.layers.attention import AttentionBackend
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.model.arch import architecture_of
from lorry_server.model.base_weights import CheckpointWeights
from lorry_server.model.checkpoint import Checkpoint
from lorry_server.model.hf_config import read_config
from lorry_server.quantization.scheme import Scheme

ATTENTION = "lorry"
ROUTERS = ("gate", "router")  # choose experts: too sensitive to quantize, too small to matter
ROTATIONS_BY_LENGTH = ("dynamic", "longrope")  # transformers changes them as a sequence grows
# what models pass to their attention function and a step without padding or dropout can leave out
IRRELEVANT = frozenset(
    {"dropout", "is_causal", "position_ids", "use_cache", "output_attentions", "cache_position"}
)


class FallbackModel(nn.Module):
    """A `CausalModel` around one of transformers' decoders; `base_weights` as a `Decoder` has."""

    def __init__(self, causal_lm: PreTrainedModel, *, scheme: Scheme) -> None:
        """Takes `causal_lm` over: its linears are replaced one by one."""
        super().__init__()
        config = causal_lm.config.get_text_config(decoder=True)
        self.num_layers = int(config.num_hidden_layers)
        self.num_heads = int(config.num_attention_heads)
        self.num_kv_heads = int(getattr(config, "num_key_value_heads", None) or self.num_heads)
        self.head_dim = int(
            getattr(config, "head_dim", None) or config.hidden_size // self.num_heads
        )
        self.max_position = int(config.max_position_embeddings)
        head: nn.Linear = causal_lm.get_output_embeddings()  # type: ignore[no-untyped-call]  # theirs
        self.vocab_size = head.out_features
        self.base_weights: CheckpointWeights | None = None
        self._linears = _replace_linears(causal_lm, scheme, head=head)
        self._decoder = causal_lm.base_model
        # what is left of the model around its decoder turns hidden states to logits
        setattr(causal_lm, causal_lm.base_model_prefix, _Echo())
        self._head = causal_lm

    def forward(
        self, token_ids_T: Tensor, positions_T: Tensor, attention: AttentionBackend
    ) -> Tensor:
        output = self._decoder(
            input_ids=token_ids_T[None],
            position_ids=positions_T[None],
            use_cache=False,
            lorry_backend=attention,
        )
        hidden_TD: Tensor = output.last_hidden_state[0]
        return hidden_TD

    def compute_logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV: Tensor = self._head(inputs_embeds=hidden_ND[None], use_cache=False).logits[0]
        return logits_NV.float()

    def linears(self) -> Iterator[Linear]:
        return iter(self._linears)

    def norms(self) -> Iterator[RMSNorm]:
        return iter(())  # they are transformers' own

    @property
    def embedding(self) -> None:
        """It is transformers' own, and whatever they make of it."""
        return None


def load_fallback(
    folder: Path, *, dtype: torch.dtype, device: torch.device, scheme: Scheme
) -> FallbackModel:
    """Raises `ModelError` for an architecture that cannot be served, by name."""
    architecture = architecture_of(read_config(folder))
    Checkpoint(folder).close()  # refuses pickles and damaged files by name
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as exc:
        raise ModelError(f"{folder}/config.json: {exc}") from exc
    model_class = _class_of(architecture)
    _refuse_unsupported(architecture, model_class, config)
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    causal_lm = model_class.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=ATTENTION,
        use_safetensors=True,
        local_files_only=True,
    )
    causal_lm.requires_grad_(False)
    _refuse_modules(architecture, causal_lm)
    model = FallbackModel(causal_lm, scheme=scheme).to(device)
    _try_one_token(model, device)
    model.base_weights = CheckpointWeights(folder, other_names={})
    return model


def _class_of(architecture: str) -> type[PreTrainedModel]:
    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        raise ModelError(f"architecture {architecture} is not a causal language model we know")
    model_class: type[PreTrainedModel] = getattr(transformers, architecture)
    return model_class


def _refuse_unsupported(
    architecture: str, model_class: type[PreTrainedModel], config: PreTrainedConfig
) -> None:
    if not model_class._supports_attention_backend or model_class._is_stateful:
        raise ModelError(
            f"architecture {architecture} is not supported: its attention cannot be replaced "
            "by one with a paged KV cache"
        )
    text = config.get_text_config(decoder=True)
    if getattr(text, "kv_lora_rank", None):
        raise ModelError(f"architecture {architecture} is not supported: it compresses its cache")
    if getattr(config, "quantization_config", None):
        raise ModelError("config.json: quantization_config is not supported")


def _refuse_modules(architecture: str, causal_lm: PreTrainedModel) -> None:
    for name, module in causal_lm.named_modules():
        if getattr(module, "is_causal", True) is False:
            raise ModelError(f"{architecture} is not a causal decoder: {name} sees later tokens")
        rope_type = getattr(module, "rope_type", None)
        rope_types = rope_type.values() if isinstance(rope_type, dict) else (rope_type,)
        for kind in rope_types:
            if kind in ROTATIONS_BY_LENGTH:
                raise ModelError(
                    f"{architecture} with rope_type {kind!r} is not supported: it would rotate "
                    "again keys that are in the cache"
                )


@torch.inference_mode()
def _try_one_token(model: FallbackModel, device: torch.device) -> None:
    """Lets a model that asks for more than we have fail when it is loaded, not when it serves."""
    zero_T = torch.zeros(1, dtype=torch.int64, device=device)
    model.compute_logits(model.forward(zero_T, zero_T, _OneToken(model)))


class _OneToken:
    """The attention of a sequence's first token, which sees its own value only."""

    def __init__(self, model: FallbackModel) -> None:
        self._model = model

    def attend(
        self,
        layer: int,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        model = self._model
        expected = (1, model.num_kv_heads, model.head_dim)
        if k_TKH.shape != expected or v_TKH.shape != expected or layer >= model.num_layers:
            raise ModelError(
                f"layer {layer} has keys of shape {list(k_TKH.shape)} and values of shape "
                f"{list(v_TKH.shape)}; a KV cache of one shape, {list(expected)}, is supported"
            )
        return v_TKH.repeat_interleave(model.num_heads // model.num_kv_heads, dim=1)


def _attend(
    module: nn.Module,
    query_1NTH: Tensor,
    key_1KTH: Tensor,
    value_1KTH: Tensor,
    attention_mask: None,
    *,
    lorry_backend: AttentionBackend,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers' models call in each layer; keyword names are theirs."""
    for name, value in others.items():
        if name not in IRRELEVANT and value is not None:
            raise ModelError(f"{type(module).__name__} needs {name}, which is not supported")
    out_TNH = lorry_backend.attend(
        int(module.layer_idx),  # type: ignore[arg-type]  # nn.Module says Tensor | Module
        query_1NTH[0].transpose(0, 1),
        key_1KTH[0].transpose(0, 1),
        value_1KTH[0].transpose(0, 1),
        scale=query_1NTH.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    return out_TNH[None], None


def _no_mask(*args: object, **kwargs: object) -> None:
    """The backend masks by itself; transformers passes each kind of mask other arguments."""


def _replace_linears(
    causal_lm: PreTrainedModel, scheme: Scheme, *, head: nn.Linear
) -> list[Linear]:
    linears = []
    for name, module in list(causal_lm.named_modules()):
        parent, _, child = name.rpartition(".")
        if not isinstance(module, nn.Linear | Conv1D) or child in ROUTERS:
            continue
        linear = _converted(name, module, scheme, is_head=module is head)
        setattr(causal_lm.get_submodule(parent), child, _Batched(linear))
        linears.append(linear)
    return linears


def _converted(name: str, module: nn.Linear | Conv1D, scheme: Scheme, *, is_head: bool) -> Linear:
    w_OI = module.weight.t() if isinstance(module, Conv1D) else module.weight
    linear = Linear(
        name,
        in_features=w_OI.shape[1],
        parts=[(name, w_OI.shape[0])],
        bias=module.bias is not None,
        is_head=is_head,
        scheme=scheme,
        dtype=w_OI.dtype,
        device=w_OI.device,
    )
    linear.weight.load_rows_(0, w_OI.detach())
    if linear.bias_O is not None:
        linear.bias_O.copy_(module.bias.detach())
    return linear


class _Batched(nn.Module):
    """A `Linear` under transformers' leading dimensions."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x_I: Tensor) -> Tensor:
        y_TO: Tensor = self.linear(x_I.reshape(-1, x_I.shape[-1]))
        return y_TO.reshape(*x_I.shape[:-1], -1)


@dataclass
class _Hidden(ModelOutput):
    """A decoder's output, with every field that some model's head reads."""

    last_hidden_state: Tensor | None = None
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None
    cross_attentions: None = None
    router_logits: None = None


class _Echo(nn.Module):
    """Stands where the decoder stood and returns the hidden states that it is given."""

    def forward(self, *args: object, inputs_embeds: Tensor, **others: object) -> _Hidden:
        return _Hidden(last_hidden_state=inputs_embeds)
