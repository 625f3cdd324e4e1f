"""`LoraxCall`: one checked request of LoRAX's native routes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive

from lorry.types.lorax import GenerateParameters, GenerateRequest
from lorry_server.adapters.contract import Contract
from lorry_server.adapters.lease import AdapterLease, released_on_error
from lorry_server.engine.request import Request as EngineRequest
from lorry_server.engine.request import SamplingParams
from lorry_server.errors import NotFoundError
from lorry_server.http.adapter_choice import find_adapter
from lorry_server.http.contract_defaults import (
    apply_contract_to_generate,
    check_ceiling,
    contract_of,
    default_max_tokens,
)
from lorry_server.http.generation import Job
from lorry_server.http.lorax_validation import (
    check_parameters,
    invalid,
    recipe_of,
    resolve_max_new_tokens,
    truncated,
    unsupported,
)
from lorry_server.http.openai_call import check_num_sequences
from lorry_server.http.openai_sampling import (
    MIN_PROBABILITY,
    SEED_RANGE,
    sequence_seeds,
    stop_strings,
)
from lorry_server.http.prompts import check_text, may_be_slow, off_loop
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.text.chat_template import render_chat

# The default of both servers. Sampling is on when any of these differs from "off".
OFF = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraxCall:
    """`seeds` has one for each sequence, None where nothing is drawn."""

    wanted: GenerateRequest
    parameters: GenerateParameters
    prompt_token_ids: tuple[int, ...]
    seeds: list[int | None]
    job: Job
    record: RequestRecord

    @property
    def has_details(self) -> bool:
        return bool(self.parameters.details or self.parameters.decoder_input_details)


async def open_call(
    wanted: GenerateRequest,
    *,
    is_streamed: bool,
    receive: Receive,
    record: RequestRecord,
    serving: Serving,
) -> LoraxCall:
    """Check a request, lease its adapter, and make the engine's requests of it.

    The call's job has the lease. Raises `RequestError` and what `choose_adapter` raises.
    """
    parameters = wanted.parameters or GenerateParameters()
    check_parameters(parameters, is_streamed=is_streamed, settings=serving.settings)
    if not wanted.inputs:
        raise invalid("`inputs` cannot be empty")
    check_num_sequences(1, parameters.best_of or 1, serving=serving)
    stop = stop_strings(parameters.stop, max_strings=serving.settings.max_stop_sequences)
    lease = await choose_adapter(parameters, receive=receive, serving=serving)
    with released_on_error(lease):
        return await _open_leased(
            wanted,
            apply_contract_to_generate(parameters, contract_of(lease)),
            lease,
            stop=stop,
            is_streamed=is_streamed,
            record=record,
            serving=serving,
        )


async def _open_leased(
    wanted: GenerateRequest,
    parameters: GenerateParameters,
    lease: AdapterLease | None,
    *,
    stop: tuple[str, ...],
    is_streamed: bool,
    record: RequestRecord,
    serving: Serving,
) -> LoraxCall:
    contract = contract_of(lease)
    check_ceiling(parameters.max_new_tokens, lease, param="max_new_tokens")
    token_ids = await prompt_token_ids(wanted.inputs, parameters, contract, serving=serving)
    max_tokens = resolve_max_new_tokens(
        parameters.max_new_tokens, input_length=len(token_ids), serving=serving
    )
    if parameters.max_new_tokens is None:
        max_tokens = min(max_tokens, default_max_tokens(contract, None) or max_tokens)
    if contract is not None:
        stop = stop or contract.stop
    is_sampled = samples(parameters)
    seed = None if parameters.seed is None else parameters.seed % SEED_RANGE
    num_sequences = parameters.best_of or 1
    seeds = sequence_seeds(seed, num_sequences=num_sequences)
    call_id = f"gen-{secrets.token_hex(16)}"
    requests = tuple(
        EngineRequest(
            request_id=f"{call_id}-{index}",
            prompt_token_ids=token_ids,
            sampling=sampling_params(
                parameters,
                max_tokens=max_tokens,
                seed=sequence_seed,
                num_logprobs=num_logprobs(parameters, is_streamed=is_streamed),
                min_p=(contract.sampling.min_p or 0.0) if contract is not None else 0.0,
            ),
            adapter=lease.digest if lease else None,
            arrival_s=record.arrival_s,
            deadline_s=record.engine_deadline_s,
        )
        for index, sequence_seed in enumerate(seeds)
    )
    # Both servers keep the stop sequence in the text that it ends.
    job = Job(requests=requests, stop=stop, include_stop=True, lease=lease)
    record.model = serving.settings.served_model_name
    record.adapter = job.adapter
    record.is_streamed = is_streamed
    record.num_sequences = num_sequences
    record.num_prompt_tokens = len(token_ids)
    shown_seeds: list[int | None] = [None] * num_sequences
    if is_sampled:
        shown_seeds = list(seeds) if parameters.seed is None else [parameters.seed]
    return LoraxCall(
        wanted=wanted,
        parameters=parameters,
        prompt_token_ids=token_ids,
        seeds=shown_seeds,
        job=job,
        record=record,
    )


async def choose_adapter(
    parameters: GenerateParameters, *, receive: Receive, serving: Serving
) -> AdapterLease | None:
    """Lease the adapter of this call; None is the base.

    Where an adapter comes from is the operator's to say, not the request's: an `adapter_source`
    other than `local` is let through where the server knows the adapter, and else refused by name.
    """
    recipe = recipe_of(parameters)
    adapter_id = parameters.adapter_id if recipe is None else str(recipe)
    if parameters.api_token is not None:
        raise unsupported("api_token")
    try:
        return await find_adapter(adapter_id, receive=receive, serving=serving)
    except NotFoundError as exc:
        if parameters.adapter_source not in (None, "", "local"):
            raise unsupported("adapter_source") from exc
        raise


async def prompt_token_ids(
    inputs: str, parameters: GenerateParameters, contract: Contract | None, *, serving: Serving
) -> tuple[int, ...]:
    check_text(inputs, param="inputs", serving=serving)
    chat: list[dict[str, Any]] = [{"role": "user", "content": inputs}]
    template = serving.chat_template
    if contract is not None:
        chat = contract.with_system_prompt(chat)
        template = contract.template or template

    def encode() -> list[int]:
        if not parameters.apply_chat_template:
            return serving.tokenizer.encode(inputs)
        return render_chat(
            serving.tokenizer,
            template,
            chat,
            add_generation_prompt=True,
            continue_final_message=False,
        )

    is_slow = bool(parameters.apply_chat_template) and may_be_slow(template)
    token_ids = tuple(await off_loop(encode, num_chars=len(inputs), is_slow=is_slow))
    return truncated(token_ids, parameters.truncate, serving=serving)


def samples(parameters: GenerateParameters) -> bool:
    """Whether tokens are drawn: `do_sample`, or any parameter that only sampling can follow."""
    if parameters.temperature == 0:
        return False
    return (
        bool(parameters.do_sample)
        or any(
            value not in (None, OFF)
            for value in (parameters.temperature, parameters.top_p, parameters.typical_p)
        )
        or parameters.top_k is not None
    )


def sampling_params(
    parameters: GenerateParameters,
    *,
    max_tokens: int,
    seed: int,
    num_logprobs: int | None,
    min_p: float,
) -> SamplingParams:
    temperature = OFF if parameters.temperature is None else parameters.temperature
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature if samples(parameters) else 0.0,
        top_p=max(parameters.top_p or OFF, MIN_PROBABILITY),
        top_k=parameters.top_k or 0,
        min_p=min_p,
        typical_p=max(parameters.typical_p or OFF, MIN_PROBABILITY),
        seed=seed,
        ignore_eos=bool(parameters.ignore_eos_token),
        presence_penalty=parameters.presence_penalty or 0.0,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        repetition_penalty=parameters.repetition_penalty or OFF,
        num_logprobs=num_logprobs,
        num_prompt_logprobs=0 if parameters.decoder_input_details else None,
    )


def num_logprobs(parameters: GenerateParameters, *, is_streamed: bool) -> int | None:
    """Every token of a stream and of `details` has a logprob; `best_of` ranks by them."""
    if is_streamed or parameters.details or parameters.decoder_input_details:
        return max(parameters.return_k_alternatives or 0, parameters.top_n_tokens or 0)
    return 0 if (parameters.best_of or 1) > 1 else None
