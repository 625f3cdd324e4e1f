"""`check_header`: what a safetensors file says of its tensors, checked before any of them is read.

The format: eight bytes of length, little-endian; that many bytes of JSON; the tensors one after
the other without holes. https://github.com/huggingface/safetensors, "Format". Every number in the
header was written by a stranger, so each is held against the file before anything is done with it,
and the header is bounded before it is parsed: time and memory depend on the bounds below, never on
what the numbers say.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from lorry_server.errors import AdapterError

# The format's own limit is 100 MB. An adapter of a large dense model has a header of 0.3 MB, and
# every expert of a mixture of them 4 MB.
MAX_HEADER_BYTES = 6 << 20
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 8
MAX_NAME_LENGTH = 512
MAX_METADATA = 1024  # entries

# Bytes of one element. The format also has types of 4 and 6 bits, which no adapter uses.
DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
}

# A tensor has four names with a colon each, and at most this many commas.
MAX_COLONS = 4 * MAX_TENSORS + 4 * MAX_METADATA
MAX_COMMAS = (4 + MAX_DIMENSIONS) * MAX_TENSORS

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_TENSOR_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the file: bytes `start` to `stop` of the whole file hold it."""

    name: str
    dtype: str  # the format's own word, such as "BF16"
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


def check_header(contents: bytes | bytearray | memoryview | BinaryIO) -> tuple[TensorInfo, ...]:
    """Return the tensors of a whole safetensors file, in the order of their bytes.

    `contents` is the file's bytes or the open file, of which only the header is read. Raises
    AdapterError with a sentence for a file that ends early or goes on too long, a header that is
    too large or not what the format wants, and tensors that overlap, leave holes, or have another
    size than their shape and dtype make.
    """
    if isinstance(contents, (bytes, bytearray, memoryview)):
        raw, file_bytes = memoryview(contents).cast("B"), len(memoryview(contents).cast("B"))
        header = _header_bytes(bytes(raw[:_LENGTH_BYTES]), file_bytes)
        return _check(bytes(raw[_LENGTH_BYTES : _LENGTH_BYTES + header]), header, file_bytes)
    file_bytes = contents.seek(0, io.SEEK_END)
    contents.seek(0)
    header = _header_bytes(contents.read(_LENGTH_BYTES), file_bytes)
    return _check(contents.read(header), header, file_bytes)


def _header_bytes(prefix: bytes, file_bytes: int) -> int:
    if len(prefix) < _LENGTH_BYTES:
        _refuse(f"it has {file_bytes} bytes, too few to be one; was it cut off?")
    num_bytes = int.from_bytes(prefix, "little")
    if num_bytes > MAX_HEADER_BYTES:
        _refuse(f"its header says that it has {num_bytes} bytes; {MAX_HEADER_BYTES} are allowed")
    if num_bytes > file_bytes - _LENGTH_BYTES:
        _refuse(f"its header has {num_bytes} bytes and the file {file_bytes}; it was cut off")
    return num_bytes


def _check(header: bytes, header_bytes: int, file_bytes: int) -> tuple[TensorInfo, ...]:
    if len(header) != header_bytes:
        _refuse("it became shorter while it was read")
    entries = _parse(header)
    _check_metadata(entries.pop(_METADATA, {}))
    if len(entries) > MAX_TENSORS:
        _refuse(f"it has {len(entries)} tensors; {MAX_TENSORS} are allowed")
    data_start = _LENGTH_BYTES + header_bytes
    tensors = [_tensor(name, entry, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _check_cover(tensors, data_start=data_start, file_bytes=file_bytes)
    return tuple(tensors)


def _parse(header: bytes) -> dict[str, Any]:
    # Counted before it is parsed: a header of nothing but brackets would take fifty times its size.
    if header.count(b":") > MAX_COLONS or header.count(b",") > MAX_COMMAS:
        _refuse(f"its header has more entries than {MAX_TENSORS} tensors have")
    if not header.startswith(b"{"):
        _refuse("its header does not begin with '{'")
    try:
        entries = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=_without_repetitions,
            parse_float=_no_such_number,
            parse_constant=_no_such_number,
        )
    except RecursionError:
        _refuse("its header is nested too deeply")
    except ValueError as exc:  # not UTF-8, not JSON, or a number of thousands of digits
        raise AdapterError(f"{_WHAT}: its header is not valid JSON") from exc
    if not isinstance(entries, dict):
        _refuse("its header is not a JSON object")
    return entries


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = counts.most_common(1)[0][0]
        _refuse(f"its header has {_shown(twice)} twice")
    return members


def _no_such_number(text: str) -> NoReturn:
    _refuse(f"its header holds the number {text[:32]}, where only whole ones can be")


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        _refuse(f"its {_METADATA} is not an object of strings")
    if len(metadata) > MAX_METADATA:
        _refuse(f"its {_METADATA} has {len(metadata)} entries; {MAX_METADATA} are allowed")


def _tensor(name: str, entry: object, data_start: int) -> TensorInfo:
    if len(name) > MAX_NAME_LENGTH:
        _refuse(f"a tensor's name has {len(name)} characters; {MAX_NAME_LENGTH} are allowed")
    if not isinstance(entry, dict) or set(entry) != _TENSOR_KEYS:
        _refuse(f"tensor {_shown(name)} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        _refuse(f"tensor {_shown(name)} has the dtype {_shown(dtype)}, which is not known")
    if not _are_counts(shape):
        _refuse(f"tensor {_shown(name)} has a shape that is not a list of sizes")
    if len(shape) > MAX_DIMENSIONS:
        _refuse(f"tensor {_shown(name)} has {len(shape)} dimensions; {MAX_DIMENSIONS} are allowed")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(f"tensor {_shown(name)} has data_offsets that are not a start and an end after it")
    wanted, given = math.prod(shape) * DTYPE_BYTES[dtype], offsets[1] - offsets[0]
    if wanted != given:
        _refuse(
            f"tensor {_shown(name)} has {_number(given)} bytes; its shape and dtype {dtype} make "
            f"{_number(wanted)}"
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(
        # True is an int to Python; a size of 2^63 and more is none to anybody
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
        for value in values
    )


def _check_cover(tensors: list[TensorInfo], *, data_start: int, file_bytes: int) -> None:
    """The tensors lie one after the other from the header's end to the file's, without a hole."""
    position = data_start
    for tensor in tensors:
        if tensor.start < position:
            _refuse(f"tensor {_shown(tensor.name)} overlaps another one")
        if tensor.start > position:
            _refuse(f"there is a hole before tensor {_shown(tensor.name)}")
        position = tensor.stop
    if position > file_bytes:
        _refuse(
            f"its header promises {_number(position)} bytes and the file has {file_bytes}; it was "
            "cut off"
        )
    if position < file_bytes:
        _refuse(f"it has {file_bytes - position} bytes more than its tensors take")


def _shown(value: object) -> str:
    """A stranger's word, short enough for a message."""
    return repr(value[:64]) if isinstance(value, str) else f"a {type(value).__name__}"


def _number(value: int) -> str:
    """A product of eight sizes may have more digits than Python likes to print."""
    return str(value) if value < 1 << 128 else "more than 10^38"


_WHAT = "not a valid safetensors file"


def _refuse(reason: str) -> NoReturn:
    raise AdapterError(f"{_WHAT}: {reason}")
