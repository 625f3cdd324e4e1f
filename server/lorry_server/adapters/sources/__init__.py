"""Where adapters come from: local folders, the Hugging Face hub, and URLs that fsspec reads."""
