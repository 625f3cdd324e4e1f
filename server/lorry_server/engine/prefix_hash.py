"""Names for the content of KV blocks: a hash chain over the tokens, rooted in the adapter.

Keys and values depend on every token before them and on the adapter that computed them, so both
are in the chain: a block computed under one adapter can never be found under another, nor under
another version of the same adapter. BLAKE2b (RFC 7693) is used because Python's own `hash` can be
made to collide by whoever chooses the prompt.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

DIGEST_BYTES = 16


def root_hash(adapter: str | None) -> bytes:
    """The parent of a sequence's first block; `adapter` is a content digest, None for the base."""
    return hashlib.blake2b((adapter or "").encode(), digest_size=DIGEST_BYTES).digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The name of a full block that holds `token_ids` and follows the block named `parent`."""
    return hashlib.blake2b(
        parent + array("i", token_ids).tobytes(), digest_size=DIGEST_BYTES
    ).digest()
