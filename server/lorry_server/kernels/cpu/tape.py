"""The step as data: one record for each operation, and one block of what changes from step to step.

A model is written out once as a tape of records (`runner.compiled.tape`), and `step.run` walks it.
So the compiled code is the same for every model, and is compiled once for a machine. A record and
the step block are rows of 8-byte words: an integer or an address, or a float32 in a word's low half.
"""

from __future__ import annotations

WORDS = 40  # of a record
WORD_BYTES = 8

# Operations, and which words they read. Every record begins with these two.
OP, ROWS = 0, 8
EMBED, NORM, QUANTIZE, MATMUL, SHRINK, KEYS_AND_VALUES, ATTEND, ADD_NORMED, SAMPLE = range(9)
# The same over weights, rows and caches that are floats; TO_BFLOAT16 stands where QUANTIZE does.
FLOAT_EMBED, FLOAT_NORM, TO_BFLOAT16, FLOAT_MATMUL, FLOAT_SHRINK = range(9, 14)
FLOAT_KEYS_AND_VALUES, FLOAT_ATTEND, FLOAT_ADD_NORMED = range(14, 17)
OWN_ROWS, FLOAT_OWN_ROWS = range(17, 19)
GATHER = 19
# What ROWS says: over the tokens of the step, or over the rows whose logits are wanted.
TOKENS, LOGITS_ROWS = 0, 1

# Where quantized rows lie: bytes, their stride; per group the scales and -128 times the sums.
XQ, LD_XQ, X_SCALE, X_START, NUM_GROUPS = 16, 24, 32, 40, 48

# EMBED: a packed weight, or a table of floats
EMBED_W, EMBED_SCALE, EMBED_ZERO, EMBED_TABLE = 56, 64, 72, 80
EMBED_MULTIPLIER, EMBED_X, EMBED_LD_X, EMBED_PANEL_BYTES = 88, 96, 104, 112
EMBED_SIZE = 120
# What adapters do to each token's row: the addresses of a row of their own, of factors, and of what is
# added, or 0; a row is of the weight's elements, the others are float32.
EMBED_CHANGES = 128
OWN_EMBEDDING, EMBEDDING_SCALE, EMBEDDING_ADDED = 0, 8, 16
EMBED_CHANGE_BYTES = 24

# NORM and QUANTIZE: rows of floats to quantized rows. ADD_NORMED: x += norm(y) * factor. GATHER: the
# rows whose logits are wanted, copied from NORM_X to NORM_ADD_TO.
NORM_X, NORM_LD_X, NORM_WEIGHT, NORM_SIZE, NORM_PADDED, NORM_EPS = 56, 64, 72, 80, 88, 96
NORM_ADD_TO, NORM_LD_ADD_TO, NORM_FACTOR = 112, 120, 128
NORM_OWN = 136  # of each slot the address of the weight that its adapter has instead, or 0

# MATMUL
W, PANEL_BYTES, NUM_PANELS, PANELS_PER_CHUNK = 56, 64, 72, 80
W_SCALE, W_ZERO, BIAS, MODE = 88, 96, 104, 112
Y, LD_Y, FACTOR, SOFTCAP = 120, 128, 136, 144
ACTIVATION = 152
OUT_XQ, OUT_LD_XQ, OUT_SCALE, OUT_START, OUT_GROUPS = 160, 168, 176, 184, 192
# LORA: the entry of slot 0; LORA_SLOT_BYTES: from slot to slot; LORA_IS_ACTIVE: the address of a word
# that says whether an adapter of the step targets the linear; SHRUNK: a block that says where shrunk
# rows lie.
LORA, LORA_SLOT_BYTES, LORA_IS_ACTIVE, SHRUNK, PANEL_SLICE = 200, 208, 216, 224, 248
SHRUNK_XQ, SHRUNK_SCALE, SHRUNK_START, SHRUNK_GROUPS = range(0, 32, 8)
SHRUNK_WORDS = 4
NIBBLE_SCALE, NIBBLE_ZERO = 264, 272  # int4: of each panel's groups; 0 where weights are bytes
STORE, ADD, GATE, LOGITS = range(4)
SILU, GELU_TANH = range(2)

# FLOAT_*: XQ and LD_XQ are rows of ELEMENTs, as many as NUM_GROUPS says; so are the shrunk rows and
# the cache. ROUNDS: 1 where the model's activations are bfloat16, and results are rounded to it.
ELEMENT, ROUNDS = 280, 288
FLOAT32, BFLOAT16 = range(2)

# SHRINK reads LORA*, SHRUNK, XQ* and NUM_SLICES. An entry has, for each slice: rank, A, A's scales,
# B; then the scales of B, and what results are multiplied with and what is added to them then (or 0),
# which all slices share.
NUM_SLICES = 256
MAX_SLICES = 3
SLICE_WORDS = 4
LORA_RANK, LORA_A, LORA_A_SCALE, LORA_B = 0, 8, 16, 24
LORA_B_SCALE = MAX_SLICES * SLICE_WORDS * WORD_BYTES
LORA_RESULT_SCALE, LORA_RESULT_SHIFT = LORA_B_SCALE + 8, LORA_B_SCALE + 16
LORA_ENTRY_BYTES = LORA_B_SCALE + 4 * WORD_BYTES

# OWN_ROWS: rows of the head that adapters bring themselves. It reads XQ*, Y, LD_Y, FACTOR and SOFTCAP as
# the head's MATMUL does, and a table with an entry for each slot: panels, the packed rows, their
# scales, the ids of their columns (or 0: all, in order), and how many these are; and what LoRA on the
# head does to these columns: its rank, B, the scales of B, factors and shifts (or 0). What its A has
# made of the rows is where SHRUNK says. OWN_PANELS is the address of a word: the most panels of an
# adapter of the step.
OWN_TABLE, OWN_PANELS = 296, 304
OWN_NUM_PANELS, OWN_W, OWN_SCALE, OWN_IDS, OWN_NUM_IDS = range(0, 40, 8)
OWN_RANK, OWN_B, OWN_B_SCALE, OWN_RESULT_SCALE, OWN_RESULT_SHIFT = range(40, 80, 8)
OWN_ENTRY_BYTES = 80
OWN_PANELS_PER_CHUNK = 4

# KEYS_AND_VALUES and ATTEND
QKV, LD_QKV, Q_OFFSET, K_OFFSET, V_OFFSET = 56, 64, 72, 80, 88
NUM_KV_HEADS, GROUP_SIZE, HEAD_DIM, HEAD_PADDED, ROPE_SIZE = 96, 104, 112, 120, 128
COS, SIN, Q_NORM, K_NORM, HEAD_EPS = 136, 144, 152, 160, 168
ATTENTION_SCALE, ATTENTION_SOFTCAP, WINDOW = 176, 184, 192
KEYS, KEY_SCALES, VALUES, VALUE_SCALES = 200, 208, 216, 224
Q_NORM_OWN, K_NORM_OWN = 256, 264  # as NORM_OWN
Q8, Q8_SCALE, Q8_START, ATTENDED, LD_ATTENDED = 232, 240, 248, 16, 24

# SAMPLE: rows of logits; `logits_block` says what is done with each. The code has an address.
SAMPLE_X, SAMPLE_LD_X, SAMPLE_SIZE, SAMPLE_BLOCK, SAMPLE_CODE = 56, 64, 72, 80, 88

# The step block.
EPOCH, TAPE, NUM_OPS, NUM_CHUNKS, CLAIMED, DONE = range(0, 48, 8)
NUM_TOKENS, NUM_ROWS, NUM_SEQUENCES = 48, 56, 64
TOKEN_IDS, POSITIONS, SLOTS, QUERY_STARTS, CONTEXT_LENS, TABLES, TABLE_STRIDE = range(72, 128, 8)
LOGITS_ROW_IDS, TOKEN_ADAPTERS, ROW_ADAPTERS, HAS_ADAPTERS = range(128, 160, 8)
ITEMS, NUM_ITEMS, SCRATCH, SCRATCH_BYTES, SCORES_LENGTH = range(160, 200, 8)
BLOCK_SIZE, NUM_WORKERS, STOP, SEMAPHORES = range(200, 232, 8)
PHASE_CYCLES = (
    232  # int64 sums of the time stamp counter for each operation of the tape, or 0: not measured
)
SECOND_PART = 240  # the address of the code for operations over floats, or 0
FINISHED = 248  # the number of the last step that is over
CALLER = 256  # the address of the semaphore on which who asked for the step waits
LOOP_ACTIVITY = 264  # the address of what `engine.loop_activity` publishes, or 0
NO_WORKER = -1  # in place of a worker's number: who asks for a step
STEP_WORDS = 34

ITEM_BYTES = 24  # sequence, first token of the step, number of tokens
QUERIES_PER_ITEM = 16
SEMAPHORE_BYTES = 64
COUNTER_BYTES = 64  # a cache line for each, so that phases do not disturb each other
