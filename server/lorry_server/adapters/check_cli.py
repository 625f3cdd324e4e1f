"""`lorry adapters check`: the doctor without a server.

Of the model only config.json, the headers of its weights and a few sampled rows are read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lorry_server.adapters.contract import Contract, read_contract
from lorry_server.adapters.doctor_text import printable, report_text
from lorry_server.config import default_cache_dir
from lorry_server.errors import StartupError
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.doctor import examine
from lorry_server.lora.doctor_report import REFUSE, WARN
from lorry_server.lora.model_facts import ModelFacts, read_model_facts
from lorry_server.model.source import DEFAULT_MODEL, ModelSource, resolve_model
from lorry_server.text.chat_template import ChatTemplate, special_tokens_in

OK, WARNED, REFUSED = 0, 1, 2
PRECISIONS = ("int8", "float32", "bfloat16", "float16")


def main(argv: Sequence[str]) -> int:
    """Check one adapter and print what was found.

    Returns 0 when it may be served, 1 for warnings with `--strict`, 2 when it is refused; argparse
    exits with 2 on wrong arguments.
    """
    options = _parser().parse_args(argv)
    try:
        adapter = read_adapter(options.path)
        if options.model is None:
            model, contract = None, _contract_alone(options.path)
        else:
            source = _find_model(options.model)
            model = _facts(source, precision=options.precision)
            contract = _contract_on(options.path, source)
        report = examine(adapter, model, allow_partial=options.allow_partial)
    except StartupError as exc:
        if options.json:
            print(msgspec.json.encode({"verdict": REFUSE, "error": str(exc)}).decode())
        else:
            print(f"lorry adapters check: {printable(str(exc))}", file=sys.stderr)
        return REFUSED
    if options.json:
        card = None if contract is None else contract.card()
        whole = msgspec.to_builtins(report) | {"path": str(options.path), "contract": card}
        print(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
    else:
        print(report_text(report, path=str(options.path)))
    if report.verdict == REFUSE:
        return REFUSED
    return WARNED if options.strict and report.verdict == WARN else OK


def _find_model(name: str) -> ModelSource:
    return resolve_model(
        None if name == "default" else name,
        cache_dir=default_cache_dir(),
        progress=lambda line: print(f"lorry: {line}", file=sys.stderr),
    )


def _facts(source: ModelSource, *, precision: str) -> ModelFacts:
    is_quantized = precision == "int8"
    return read_model_facts(
        source.path,
        model_id=source.model_id,
        dtype="float32" if is_quantized else precision,
        is_quantized=is_quantized,
    )


def _contract_alone(path: Path) -> Contract | None:
    contract = read_contract(path)
    if contract is not None and contract.template is not None:
        contract.try_on(None)
    return contract


def _contract_on(path: Path, source: ModelSource) -> Contract | None:
    contract = read_contract(path, tokens=special_tokens_in(source.path))
    if contract is not None:
        contract.try_on(ChatTemplate.from_folder(source.path))
    return contract


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry adapters check",
        description="Read an adapter's folder and say what it is, whether it fits a model, and how "
        "close what would be served is to a merged layer.",
        epilog="Exit status: 0 it may be served, 1 there are warnings and --strict, 2 it is refused.",
    )
    parser.add_argument("path", type=Path, help="a PEFT adapter folder")
    parser.add_argument(
        "--model",
        help=f"the base to check the fit to: a folder, a .gguf file, a hub id, or 'default' for "
        f"{DEFAULT_MODEL}; without it the adapter is checked by itself",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="int8",
        help="how the update would be served: int8 on quantized layers (default: int8)",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="modules that the model does not have are a warning",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
