"""`sample`: the logits rows of a plan to the entries of a `StepResult`.

Shape legend: N logits rows, V vocabulary, K most alternatives asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lorry_server.engine.plan import (
    NON_FINITE,
    OK,
    SAMPLE,
    Float32,
    Int32,
    LogitsPlan,
    StepResult,
)
from lorry_server.kernels.filters import filter_
from lorry_server.kernels.masses import log_softmax
from lorry_server.kernels.sampling import (
    apply_bias_,
    apply_penalties_,
    best_tokens,
    gumbel_noise,
)


def sample(logits_NV: Tensor, plan: LogitsPlan) -> StepResult:
    """Choose a token for every row that asks for one, and give logprobs where they are wanted.

    `logits_NV` is float32 and is changed. A row that holds NaN or an infinity yields token 0, no
    logprobs and the status NON_FINITE, and no other row is touched by it. A row has as many of the
    best tokens as it asked for; zeros follow.
    """
    device = logits_NV.device
    # Any NaN or infinity is among the two extremes of its row: one pass instead of two.
    extremes = torch.aminmax(logits_NV, dim=-1)
    is_finite_N = torch.isfinite(extremes.min) & torch.isfinite(extremes.max)
    if not bool(is_finite_N.all()):
        logits_NV[~is_finite_N] = 0.0
    targets_N = torch.from_numpy(plan.targets_N).to(device).long()
    is_finite = is_finite_N.cpu().numpy()
    wanted = np.flatnonzero((plan.num_logprobs_N >= 0) & is_finite)
    own_NV = logits_NV[torch.from_numpy(wanted).to(device)]  # the model's: what follows changes it
    _adjust_(logits_NV, plan)
    token_ids_N = torch.where(targets_N == SAMPLE, _choose(logits_NV, plan), targets_N)
    token_ids_N = torch.where(is_finite_N, token_ids_N, 0).cpu()
    chosen_N, top_ids_NK, top_values_NK = _logprobs(own_NV, plan, wanted, token_ids_N)
    return StepResult(
        token_ids_N=token_ids_N.numpy().astype(np.int32),
        logprobs_N=chosen_N,
        top_ids_NK=top_ids_NK,
        top_logprobs_NK=top_values_NK,
        status_N=np.where(is_finite, OK, NON_FINITE).astype(np.int32),
    )


def _logprobs(
    own_NV: Tensor, plan: LogitsPlan, wanted: npt.NDArray[np.intp], token_ids_N: Tensor
) -> tuple[Float32, Int32, Float32]:
    """Of all rows; `own_NV` are the logits of those `wanted`."""
    num_rows, num_top = len(plan.rows_N), max(0, int(plan.num_logprobs_N.max(initial=-1)))
    chosen_N = np.zeros(num_rows, np.float32)
    top_ids_NK = np.zeros((num_rows, num_top), np.int32)
    top_values_NK = np.zeros((num_rows, num_top), np.float32)
    if len(wanted) == 0:
        return chosen_N, top_ids_NK, top_values_NK
    logprobs_NV = log_softmax(own_NV)
    chosen = logprobs_NV.gather(1, token_ids_N[wanted, None].to(own_NV.device))
    chosen_N[wanted] = chosen[:, 0].cpu().numpy()
    count = min(num_top, own_NV.shape[1])
    if count:
        ids = best_tokens(own_NV, num_top=count)
        is_asked = np.arange(count) < plan.num_logprobs_N[wanted, None]
        top_ids_NK[wanted, :count] = np.where(is_asked, ids.cpu().numpy(), 0)
        values = logprobs_NV.gather(1, ids).cpu().numpy()
        top_values_NK[wanted, :count] = np.where(is_asked, values, np.float32(0.0))
    return chosen_N, top_ids_NK, top_values_NK


def _adjust_(logits_NV: Tensor, plan: LogitsPlan) -> None:
    device = logits_NV.device
    if len(plan.history_ids):
        apply_penalties_(
            logits_NV,
            history_starts_N1=torch.from_numpy(plan.history_starts_N1),
            history_ids=torch.from_numpy(plan.history_ids).to(device),
            prompt_lens_N=torch.from_numpy(plan.prompt_lens_N),
            presence_N=torch.from_numpy(plan.presence_penalty_N).to(device),
            frequency_N=torch.from_numpy(plan.frequency_penalty_N).to(device),
            repetition_N=torch.from_numpy(plan.repetition_penalty_N).to(device),
        )
    if len(plan.bias_ids):
        apply_bias_(
            logits_NV,
            starts_N1=torch.from_numpy(plan.bias_starts_N1).to(device),
            ids=torch.from_numpy(plan.bias_ids).to(device),
            values=torch.from_numpy(plan.bias_values).to(device),
        )


def _choose(logits_NV: Tensor, plan: LogitsPlan) -> Tensor:
    """Argmax, with noise on the rows that have a temperature."""
    token_ids_N = logits_NV.argmax(-1)
    random = np.flatnonzero((plan.temperature_N > 0) & (plan.targets_N == SAMPLE))
    if len(random) == 0:
        return token_ids_N
    device = logits_NV.device
    rows = torch.from_numpy(random).to(device)
    chosen_NV = logits_NV[rows] / torch.from_numpy(plan.temperature_N[random]).to(device)[:, None]
    is_filtered = (
        (plan.top_k_N[random] > 0)
        | (plan.top_p_N[random] < 1)
        | (plan.min_p_N[random] > 0)
        | (plan.typical_p_N[random] < 1)
    )
    if is_filtered.any():
        filter_(
            chosen_NV,
            top_k_N=torch.from_numpy(plan.top_k_N[random]).to(device),
            top_p_N=torch.from_numpy(plan.top_p_N[random]).to(device),
            min_p_N=torch.from_numpy(plan.min_p_N[random]).to(device),
            typical_p_N=torch.from_numpy(plan.typical_p_N[random]).to(device),
        )
    noise_NV = gumbel_noise(
        torch.from_numpy(plan.seeds_N[random]).to(device),
        torch.from_numpy(plan.positions_N[random]).to(device),
        vocab_size=logits_NV.shape[1],
    )
    token_ids_N[rows] = (chosen_NV + noise_NV).argmax(-1)
    return token_ids_N
