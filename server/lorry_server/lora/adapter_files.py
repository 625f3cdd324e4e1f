"""The files of an adapter's folder, by name."""

from __future__ import annotations

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
SIDECAR_FILE = "lorry.json"  # the adapter's own contract; it may be missing
TEMPLATE_FILE = "chat_template.jinja"  # read where the contract names it
PICKLE_FILE = "adapter_model.bin"  # named in refusals and never read

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
CONTRACT_FILES = (SIDECAR_FILE, TEMPLATE_FILE)
ADAPTER_FILES = (*REQUIRED_FILES, *CONTRACT_FILES)
MAX_SMALL_FILE_BYTES = 1 << 20  # of any but the weights
