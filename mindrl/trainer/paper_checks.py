"""What the yaml and the model's config.json decide between them: told at once, before torch is imported."""

from pathlib import Path

from mindrl.config.schema import Config
from mindrl.errors import RequestError
from mindrl.files import require_path
from mindrl.planning.model import architecture_file, check_same_model
from mindrl.planning.trainable import check_trainable
from mindrl.weight_maps import read_architecture


def check_on_paper(config: Config) -> None:
    """`RequestError` where the model is not there, is of no known family, or does not fit the layout and lengths."""
    if config.model.architecture is not None and not config.model.path.is_dir():
        # Told before the model is downloaded for nothing; the model's own config.json counts where it is there.
        check_trainable(config, architecture_file(config.model.architecture))
    _require_model_directory(config.model.path)
    try:
        architecture = read_architecture(config.model.path)
    except RequestError as error:
        raise RequestError(f"model.path {config.model.path}: {error}") from error
    check_same_model(config, architecture)
    check_trainable(config, architecture)


def _require_model_directory(path: Path) -> None:
    require_path(path, "model.path")
    if path.is_file():
        raise RequestError(f"model.path: {path} is a file; give the Hugging Face directory that it lies in")
    if path.is_dir():
        return
    raise RequestError(
        f"model.path: there is no directory {path}; give the model's Hugging Face directory (config.json, tokenizer files, "
        f"weights). Names of the hub are not looked up: download it first, by hf download ORG/NAME --local-dir {path}"
    )
