"""OpenVINO GenAI behind a pipe: a line of JSON in is a closed loop, a line out its timings.

    openvino_worker.py MODEL FIRST_TOKEN_ID END_TOKEN_ID

Runs under an interpreter that has `openvino-genai` and nothing of this repository. Ends when its
standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai


def main() -> None:
    model, first_token_id, end_token_id = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # The library writes to standard output too; answers keep the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 2  # GB
    scheduler.max_num_batched_tokens = 512
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU")
    answers.write(json.dumps({"version": genai.__version__}) + "\n")
    for line in sys.stdin:
        work = json.loads(line)
        rng = np.random.default_rng(work["seed"])
        shape = (work["num_requests"], 1, work["prompt_tokens"])
        prompts = rng.integers(first_token_id, end_token_id, shape).astype(np.int64)
        answers.write(json.dumps(closed_loop(pipeline, work, prompts)) + "\n")


def closed_loop(pipeline: Any, work: dict[str, int], prompts: np.ndarray) -> dict[str, Any]:
    config = genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = work["new_tokens"]
    config.ignore_eos = True
    config.do_sample = False
    ttft_s: list[float] = []
    waiting: list[tuple[Any, float]] = []  # for the first token
    running: list[Any] = []
    num_started = 0
    started_s = time.perf_counter()
    while num_started < len(prompts) or running:
        while len(running) < work["concurrency"] and num_started < len(prompts):
            added_s = time.perf_counter()
            handle = pipeline.add_request(num_started, ov.Tensor(prompts[num_started]), config)
            running.append(handle)
            waiting.append((handle, added_s))
            num_started += 1
        pipeline.step()
        now_s = time.perf_counter()
        ttft_s += [now_s - added_s for handle, added_s in waiting if handle.can_read()]
        waiting = [(handle, added_s) for handle, added_s in waiting if not handle.can_read()]
        running = [h for h in running if h.get_status() == genai.GenerationStatus.RUNNING]
    return {"seconds": time.perf_counter() - started_s, "ttft_s": ttft_s}


if __name__ == "__main__":
    main()
