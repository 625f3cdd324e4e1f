from __future__ import annotations

import random

from lorry_server.engine.block_pool import BlockPool


def test_allocated_blocks_are_distinct_and_come_back_on_release() -> None:
    pool = BlockPool(4)

    blocks = pool.allocate(3)

    assert len(set(blocks)) == 3
    assert pool.num_available == 1
    pool.release(blocks)
    assert pool.num_available == 4
    pool.check_integrity()


def test_memory_that_was_never_needed_stays_untouched() -> None:
    pool = BlockPool(100)
    touched: set[int] = set()

    for _ in range(50):
        blocks = pool.allocate(3)
        touched.update(blocks)
        pool.release(blocks)

    assert len(touched) == 3


def test_a_released_block_with_known_content_is_found_again() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.remember(blocks[0], b"first")
    pool.remember(blocks[1], b"second")
    pool.release(blocks)

    found = pool.match([b"first", b"second", b"third"])

    assert found == blocks
    assert pool.num_cached == 2


def test_a_match_stops_at_the_first_unknown_block() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(2)
    pool.remember(blocks[1], b"second")

    assert pool.match([b"first", b"second"]) == []


def test_a_shared_block_stays_in_use_until_its_last_reference_is_dropped() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.remember(blocks[0], b"first")
    pool.share(blocks)

    pool.release(blocks)

    assert pool.num_used == 1
    pool.release(blocks)
    assert pool.num_used == 0
    pool.check_integrity()


def test_cached_blocks_are_given_away_only_when_no_free_one_is_left() -> None:
    pool = BlockPool(3)
    cached = pool.allocate(1)
    pool.remember(cached[0], b"first")
    pool.release(cached)

    others = pool.allocate(2)

    assert cached[0] not in others
    assert pool.match([b"first"]) == cached
    assert pool.allocate(1) == cached
    assert pool.match([b"first"]) == []


def test_the_tail_of_a_prefix_is_given_away_before_its_head() -> None:
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    pool.remember(blocks[0], b"first")
    pool.remember(blocks[1], b"second")
    pool.release(blocks)

    pool.allocate(1)

    assert pool.match([b"first", b"second"]) == [blocks[0]]


def test_content_computed_twice_is_remembered_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(2)
    pool.remember(first, b"same")
    pool.remember(second, b"same")

    assert pool.match([b"same"]) == [first]
    pool.release([second])
    assert pool.num_cached == 0
    pool.check_integrity()


def test_random_use_never_breaks_the_counts() -> None:
    rng = random.Random(3)
    pool = BlockPool(12)
    tables: list[list[int]] = []
    for step in range(2000):
        if tables and rng.random() < 0.5:
            pool.release(tables.pop(rng.randrange(len(tables))))
        elif pool.num_available >= 3:
            hashes = [f"{rng.randrange(4)}-{i}".encode() for i in range(rng.randint(0, 2))]
            shared = pool.match(hashes)
            if pool.num_available_without(shared) < 2:
                continue
            pool.share(shared)
            table = shared + pool.allocate(2)
            for index, block in enumerate(table[len(shared) :]):
                if rng.random() < 0.7:
                    pool.remember(block, f"{step % 4}-{index}".encode())
            tables.append(table)
        pool.check_integrity()

    for table in tables:
        pool.release(table)
    assert pool.num_available == 12
