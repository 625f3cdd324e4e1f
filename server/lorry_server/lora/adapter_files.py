"""The files of an adapter's folder, by name."""

from __future__ import annotations

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SIDECAR_FILE = "lorry.json"  # the adapter's own contract; it may be missing
PICKLE_FILE = "adapter_model.bin"  # named in refusals and never read

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
ADAPTER_FILES = (*REQUIRED_FILES, SIDECAR_FILE)
MAX_SMALL_FILE_BYTES = 1 << 20  # of the two JSON files
