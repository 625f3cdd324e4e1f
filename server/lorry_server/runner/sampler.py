"""`sample`: the logits rows of a plan to the entries of a `StepResult`.

Shape legend: N logits rows, V vocabulary, K most alternatives asked for.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorry_server.engine.plan import NON_FINITE, OK, SAMPLE, LogitsPlan, StepResult
from lorry_server.kernels.sampling import (
    apply_bias_,
    apply_penalties_,
    filter_,
    gumbel_noise,
    top_logprobs,
)


def sample(logits_NV: Tensor, plan: LogitsPlan) -> StepResult:
    """Choose a token for every row that asks for one, and give logprobs where they are wanted.

    `logits_NV` is float32 and is changed. A row that holds NaN or +inf yields token 0 and the
    status NON_FINITE, and no other row is touched by it.
    """
    device = logits_NV.device
    # Any NaN or +inf makes the maximum of its row NaN or +inf: one pass instead of two.
    is_finite_N = torch.isfinite(logits_NV.amax(-1))
    if not bool(is_finite_N.all()):
        logits_NV[~is_finite_N] = 0.0
    logprobs_NV = _wanted_logprobs(logits_NV, plan)
    targets_N = torch.from_numpy(plan.targets_N).to(device).long()
    _adjust_(logits_NV, plan)
    token_ids_N = torch.where(targets_N == SAMPLE, _choose(logits_NV, plan), targets_N)
    token_ids_N = torch.where(is_finite_N, token_ids_N, 0)
    status_N = np.where(is_finite_N.cpu().numpy(), OK, NON_FINITE).astype(np.int32)
    num_rows = len(plan.rows_N)
    chosen_N = np.zeros(num_rows, np.float32)
    num_top = max(0, int(plan.num_logprobs_N.max(initial=-1)))
    top_ids_NK = np.zeros((num_rows, num_top), np.int32)
    top_values_NK = np.zeros((num_rows, num_top), np.float32)
    wanted = np.flatnonzero(plan.num_logprobs_N >= 0)
    if logprobs_NV is not None:
        rows = torch.from_numpy(wanted).to(device)
        chosen = logprobs_NV.gather(1, token_ids_N[rows, None])[:, 0]
        chosen_N[wanted] = chosen.cpu().numpy()
        if num_top:
            ids, values = top_logprobs(logprobs_NV, num_top=num_top)
            top_ids_NK[wanted] = ids.cpu().numpy()
            top_values_NK[wanted] = values.cpu().numpy()
    return StepResult(
        token_ids_N=token_ids_N.cpu().numpy().astype(np.int32),
        logprobs_N=chosen_N,
        top_ids_NK=top_ids_NK,
        top_logprobs_NK=top_values_NK,
        status_N=status_N,
    )


def _wanted_logprobs(logits_NV: Tensor, plan: LogitsPlan) -> Tensor | None:
    """Logprobs of the model's own distribution, of the rows that want them, in their order."""
    wanted = np.flatnonzero(plan.num_logprobs_N >= 0)
    if len(wanted) == 0:
        return None
    return logits_NV[torch.from_numpy(wanted).to(logits_NV.device)].log_softmax(-1)


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
