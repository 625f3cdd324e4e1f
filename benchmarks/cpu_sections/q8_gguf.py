"""A GGUF file with every quantized matrix written again as Q8_0, for a peer that reads GGUF.

The default model comes as Q4_1. Ours serves its values with int8 weights, so the like of ours is
the same values in eight bits. Q8_0 is ggml's: groups of 32 with one half-precision scale.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WRITTEN_BY_THE_WRITER = ("GGUF.", "general.architecture")


def write_q8_0(source: Path, target: Path) -> Path:
    """Copy `source` to `target` with its matrices in Q8_0; vectors stay as they are."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith(WRITTEN_BY_THE_WRITER):
            continue
        if name == "general.file_type":
            writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
            continue
        inner = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for tensor in reader.tensors:
        if len(tensor.shape) < 2:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
            continue
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, q8_0), raw_dtype=q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
