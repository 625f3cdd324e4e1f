"""Ids that the client makes for requests that come without one."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from lorry.request_id import RequestIds

IN_A_FORK = """
import os
from lorry.request_id import new_request_id

new_request_id()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.write(writer, new_request_id().encode())
    os._exit(0)
os.waitpid(child, 0)
print(os.read(reader, 32).decode(), new_request_id())
"""


def test_ids_have_32_digits_and_are_never_the_same_in_any_thread() -> None:
    ids = RequestIds()
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: ids.new(), range(10_000)))

    assert len(set(made)) == 10_000
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)


def test_a_forked_process_makes_other_ids_than_its_parent() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", IN_A_FORK], capture_output=True, text=True, check=True, timeout=60
    )
    of_child, of_parent = ran.stdout.split()

    assert len(of_child) == len(of_parent) == 32
    assert of_child != of_parent
