"""`lorry finetune`: trains a LoRA adapter from a JSONL file and writes what `lorry serve` serves."""
