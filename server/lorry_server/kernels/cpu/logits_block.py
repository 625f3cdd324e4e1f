"""The words of the block that says what is done with each logits row, and where results go.

Each is the address of an array with one entry for each row of the step, but for the ids and values
of histories and biases, which have as many as their starts say. `engine.plan.LogitsPlan` says what
the columns mean.
"""

from __future__ import annotations

TARGETS, POSITIONS, SEEDS, TEMPERATURE = 0, 8, 16, 24
TOP_K, TOP_P, MIN_P, TYPICAL_P = 32, 40, 48, 56
PRESENCE, FREQUENCY, REPETITION = 64, 72, 80
HISTORY_STARTS, HISTORY_IDS, PROMPT_LENS = 88, 96, 104
BIAS_STARTS, BIAS_IDS, BIAS_VALUES = 112, 120, 128
NUM_LOGPROBS = 136

# Results. Rows of the best tokens are NUM_TOP entries apart.
OUT_TOKEN_IDS, OUT_STATUS, OUT_LOGPROBS = 144, 152, 160
OUT_TOP_IDS, OUT_TOP_LOGPROBS, NUM_TOP = 168, 176, 184
BLOCK_WORDS = 24

# Scratch of a thread: three rows of words, then two lots of buckets, then registers taken apart.
NUM_BUCKETS = 1024
BUCKET_BYTES = 16  # how many tokens, and their mass
BUCKETS_BYTES = NUM_BUCKETS * BUCKET_BYTES
REGISTER_BYTES = 256


def scratch_bytes(vocab_size: int) -> int:
    """What a thread needs to sample a row."""
    padded = -(-vocab_size // 16) * 16
    return 3 * 4 * padded + 2 * BUCKETS_BYTES + REGISTER_BYTES
