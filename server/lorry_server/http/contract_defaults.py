"""An adapter's contract applied to a request: defaults where it says nothing, and one ceiling.

A request's own values win over every default. Nothing wins over the ceiling: a request for more
tokens is refused with both numbers, because an answer that is cut without a word looks whole.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from lorry.types.generation import GenerationRequest
from lorry.types.lorax import GenerateParameters
from lorry_server.adapters.contract import Contract
from lorry_server.adapters.lease import AdapterLease
from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown

R = TypeVar("R", bound=GenerationRequest)

# On LoRAX's routes there is no field for `min_p`; the call takes it from the contract itself.
_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def contract_of(lease: AdapterLease | None) -> Contract | None:
    """Return the contract of what a request runs on; the base model and compositions have none."""
    return None if lease is None else lease.facts.contract


def apply_contract(request: R, contract: Contract | None) -> R:
    """Return `request` with the contract's sampling and stop strings where it has null or nothing.

    `max_tokens` stays as it is: `default_max_tokens` says what null means.
    """
    if contract is None:
        return request
    changes: dict[str, Any] = {
        name: default
        for name in _SAMPLING
        if getattr(request, name) is None
        and (default := getattr(contract.sampling, name)) is not None
    }
    if request.stop is None and contract.stop:
        changes["stop"] = list(contract.stop)
    return msgspec.structs.replace(request, **changes) if changes else request


def apply_contract_to_generate(
    parameters: GenerateParameters, contract: Contract | None
) -> GenerateParameters:
    """The same for LoRAX's parameters, but for `stop` and `min_p`, which the call looks up itself.

    Their clients send `do_sample: false` whenever nobody asked for anything, so it counts as
    nothing said; `temperature: 0` asks for the likeliest token.
    """
    if contract is None:
        return parameters
    sampling = contract.sampling
    changes: dict[str, Any] = {
        name: default
        for name in _SAMPLING
        if name not in ("top_k", "min_p")
        and getattr(parameters, name) is None
        and (default := getattr(sampling, name)) is not None
    }
    if parameters.top_k is None and (sampling.top_k or 0) > 0:
        changes["top_k"] = sampling.top_k
    # There 1.0 means "not given" as well; drawing has to be asked for.
    if changes.get("temperature", 0.0) > 0:
        changes["do_sample"] = True
    return msgspec.structs.replace(parameters, **changes) if changes else parameters


def default_max_tokens(contract: Contract | None, default: int | None) -> int | None:
    """How many tokens a request gets that names no limit; None is the rest of the context."""
    if contract is None:
        return default
    if contract.max_tokens is not None:
        return contract.max_tokens
    if contract.max_tokens_ceiling is None or default is None:
        return default if contract.max_tokens_ceiling is None else contract.max_tokens_ceiling
    return min(default, contract.max_tokens_ceiling)


def check_ceiling(asked: int | None, lease: AdapterLease | None, *, param: str) -> None:
    """Raise `RequestError` where a request names a limit above the contract's ceiling."""
    contract = contract_of(lease)
    ceiling = contract.max_tokens_ceiling if contract is not None else None
    if lease is not None and asked is not None and ceiling is not None and asked > ceiling:
        raise RequestError(
            f"`{param}` may be at most {ceiling} on the adapter {shown(lease.asked)}, whose contract says so "
            f"(`max_tokens_ceiling`). Given: {asked}",
            param=param,
            code="max_tokens_ceiling",
        )
