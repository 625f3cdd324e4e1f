"""`HttpSettings`: what an operator may set about the HTTP side."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Names and limits; every one is checked before a request reaches the engine.

    Without `api_keys` every route is open: whoever builds this decides that knowingly. With
    `admin_keys` only they open the routes that change adapters; they open everything else too.
    """

    served_model_name: str
    # what TGI's clients and huggingface_hub call any model that they know by its address
    model_aliases: tuple[str, ...] = ("tgi", "dummy")
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    max_body_bytes: int = 2 * MIB
    max_headers: int = 100
    body_timeout_s: float = 30.0
    # A prompt of more bytes than the context would hold at this many per token is refused
    # without tokenizing it. Running text has about 4.
    max_prompt_bytes_per_token: int = 32
    default_max_tokens: int = 16  # on /v1/completions; elsewhere the rest of the context
    max_sequences_per_request: int = 1024  # prompts x choices
    max_completion_tokens_per_request: int = 1024 * 1024  # prompts x choices x max_tokens
    max_best_of: int = 2
    max_stop_sequences: int = 4  # on LoRAX's routes; OpenAI's have their own bound
    keep_alive_s: float = 15.0  # a comment goes out on a stream that is silent for so long
    stall_timeout_s: float = 60.0  # a reader that takes nothing for so long is cut off
    progress_timeout_s: float = 10.0  # not ready when a busy engine makes no step for so long

    def __post_init__(self) -> None:
        if not self.served_model_name:
            raise ValueError("served_model_name must not be empty")
        if any(not key for key in (*self.api_keys, *self.admin_keys)):
            raise ValueError("api_keys and admin_keys must not contain an empty key")
        for name in ("max_body_bytes", "max_headers", "max_best_of", "max_stop_sequences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_completion_tokens_per_request < self.max_sequences_per_request:
            raise ValueError(
                "max_completion_tokens_per_request must be at least max_sequences_per_request, "
                f"{self.max_sequences_per_request}, not {self.max_completion_tokens_per_request}"
            )
        for name in ("body_timeout_s", "keep_alive_s", "stall_timeout_s", "progress_timeout_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0, not {getattr(self, name)}")
