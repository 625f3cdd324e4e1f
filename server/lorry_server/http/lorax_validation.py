"""The checks of LoRAX's and TGI's parameters, in the words that their clients match on.

Where those two servers have no bound but arithmetic in float32 needs one, the text is ours.
"""

from __future__ import annotations

from lorry.types.common import MAX_LOGPROBS
from lorry.types.lorax import GenerateParameters
from lorry_server.adapters.recipe import Recipe, merged_recipe
from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown
from lorry_server.http.serving import Serving
from lorry_server.http.settings import HttpSettings

MAX_SEED = 2**64 - 1
MAX_INT = 2**31 - 1
MAX_TEMPERATURE = 100.0
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0


def check_parameters(
    parameters: GenerateParameters, *, is_streamed: bool, settings: HttpSettings
) -> None:
    """Check every parameter that can be checked without the prompt; raise `RequestError`."""
    check_unsupported(parameters)
    check_best_of(parameters, is_streamed=is_streamed, settings=settings)
    check_numbers(parameters)
    check_sizes(parameters)
    if len(parameters.stop or ()) > settings.max_stop_sequences:
        raise invalid(
            f"`stop` supports up to {settings.max_stop_sequences} stop sequences. "
            f"Given: {len(parameters.stop or ())}"
        )
    if is_streamed and parameters.decoder_input_details:
        raise invalid("`decoder_input_details` == true is not supported when streaming tokens")


def check_unsupported(parameters: GenerateParameters) -> None:
    if parameters.watermark:
        raise unsupported("watermark")
    if parameters.grammar is not None:
        raise unsupported("grammar")
    if parameters.response_format not in (None, {"type": "text"}):
        raise unsupported("response_format")


def recipe_of(parameters: GenerateParameters) -> Recipe | None:
    """Return what `merged_adapters` asks for, None where it is not given."""
    merged = parameters.merged_adapters
    if merged is None:
        return None
    if parameters.adapter_id:
        raise invalid("at most one of `adapter_id` or `adapters` may be provided")
    try:
        return merged_recipe(
            ids=merged.ids,
            weights=merged.weights,
            merge_strategy=merged.merge_strategy,
            density=merged.density,
            majority_sign_method=merged.majority_sign_method,
            seed=merged.seed,
        )
    except ValueError as exc:
        raise RequestError(str(exc), param="merged_adapters", code="invalid_value") from exc


def check_best_of(
    parameters: GenerateParameters, *, is_streamed: bool, settings: HttpSettings
) -> None:
    best_of = parameters.best_of
    if best_of is None:
        return
    if not 0 < best_of <= settings.max_best_of:
        raise invalid(
            f"`best_of` must be > 0 and <= {settings.max_best_of}. Given: {shown(best_of)}"
        )
    if best_of == 1:
        return
    if is_streamed:
        raise invalid("`best_of` != 1 is not supported when streaming tokens")
    if not asks_for_sampling(parameters):
        raise invalid("you must use sampling when `best_of` is > 1")
    if parameters.seed is not None:
        raise invalid("`seed` must not be set when `best_of` > 1")


def asks_for_sampling(parameters: GenerateParameters) -> bool:
    return bool(parameters.do_sample) or any(
        value is not None
        for value in (
            parameters.temperature,
            parameters.top_k,
            parameters.top_p,
            parameters.typical_p,
        )
    )


def check_numbers(parameters: GenerateParameters) -> None:
    temperature = parameters.temperature
    if temperature is not None:
        if temperature < 0:
            raise invalid("`temperature` must be non-negative")
        if temperature > MAX_TEMPERATURE:
            raise invalid(
                f"`temperature` must be <= {MAX_TEMPERATURE}. Given: {shown(temperature)}"
            )
    penalty = parameters.repetition_penalty
    if penalty is not None:
        if penalty <= 0:
            raise invalid("`repetition_penalty` must be strictly positive")
        if not MIN_REPETITION_PENALTY <= penalty <= MAX_REPETITION_PENALTY:
            raise invalid(
                f"`repetition_penalty` must be >= {MIN_REPETITION_PENALTY} and <= "
                f"{MAX_REPETITION_PENALTY}. Given: {shown(penalty)}"
            )
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(parameters, name)
        if value is not None and not -2.0 <= value <= 2.0:
            raise invalid(f"`{name}` must be >= -2.0 and <= 2.0")
    # 1.0, "off", is let through despite the text, as both servers do.
    if parameters.top_p is not None and not 0.0 < parameters.top_p <= 1.0:
        raise invalid("`top_p` must be > 0.0 and < 1.0")
    if parameters.typical_p is not None and not 0.0 < parameters.typical_p < 1.0:
        raise invalid("`typical_p` must be > 0.0 and < 1.0")
    if parameters.seed is not None and not 0 <= parameters.seed <= MAX_SEED:
        raise invalid(f"`seed` must be >= 0 and <= {MAX_SEED}. Given: {shown(parameters.seed)}")


def check_sizes(parameters: GenerateParameters) -> None:
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise invalid("`top_k` must be strictly positive")
    if parameters.top_k is not None and parameters.top_k > MAX_INT:
        raise invalid(f"`top_k` must be <= {MAX_INT}. Given: {shown(parameters.top_k)}")
    if parameters.max_new_tokens is not None and parameters.max_new_tokens <= 0:
        raise invalid("`max_new_tokens` must be strictly positive")
    if parameters.return_k_alternatives is not None and parameters.return_k_alternatives <= 0:
        raise invalid("`return_k_alternatives` must be strictly positive")
    for name, lowest in (("return_k_alternatives", 1), ("top_n_tokens", 0)):
        value = getattr(parameters, name)
        if value is not None and not lowest <= value <= MAX_LOGPROBS:
            raise invalid(
                f"`{name}` must be >= {lowest} and <= {MAX_LOGPROBS}. Given: {shown(value)}"
            )


def truncated(
    token_ids: tuple[int, ...], truncate: int | None, *, serving: Serving
) -> tuple[int, ...]:
    """Keep the last `truncate` tokens of a prompt."""
    if truncate is None:
        return token_ids
    max_input_length = serving.engine.info.max_model_len - 1
    if not 0 < truncate <= max_input_length:
        raise invalid(
            "`truncate` must be strictly positive and less than "
            f"{max_input_length}. Given: {shown(truncate)}"
        )
    return token_ids[-truncate:]


def resolve_max_new_tokens(
    max_new_tokens: int | None, *, input_length: int, serving: Serving
) -> int:
    """Return how many tokens may follow; null is LoRAX's "the rest of the context"."""
    max_total_tokens = serving.engine.info.max_model_len
    if max_new_tokens is not None and input_length + max_new_tokens > max_total_tokens:
        raise invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {max_total_tokens}. "
            f"Given: {input_length} `inputs` tokens and {shown(max_new_tokens)} `max_new_tokens`"
        )
    if input_length >= max_total_tokens:
        raise invalid(
            f"`inputs` must have less than {max_total_tokens} tokens. Given: {input_length}"
        )
    return max_total_tokens - input_length if max_new_tokens is None else max_new_tokens


def invalid(message: str) -> RequestError:
    return RequestError(message, code="invalid_value")


def unsupported(name: str) -> RequestError:
    return RequestError(
        f"`{name}` is not supported by this server", param=name, code="unsupported_parameter"
    )
