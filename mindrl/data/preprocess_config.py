"""The yaml of `mindrl preprocess`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, PositiveInt, model_validator

from mindrl.config.base import Section
from mindrl.data.handlers import MapKeys


class PreprocessConfig(Section):
    """A data set's yaml."""

    input: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
    """A .json, .jsonl or .parquet file, the first two also compressed (.gz, .bz2, .xz, .zst), a folder of them, or a
    data set of the Hugging Face hub, `hf://datasets/OWNER/NAME[@REVISION][/FILES]`."""
    output_prefix: Path
    """Writes `<output_prefix>.parquet` and `<output_prefix>.json`; its last part names the data set."""
    tokenizer_type: Literal["HuggingFaceTokenizer", "PretrainedFromHF"] = "HuggingFaceTokenizer"
    """Two established names for the one kind of tokenizer there is: a Hugging Face directory's."""
    tokenizer_name_or_path: Path
    """Directory with the tokenizer's files."""
    workers: PositiveInt = 1
    """Processes that tokenize."""
    prompt_type: str
    """Name of a template, or `chat` for the tokenizer's own chat template."""
    prompt_type_path: Path | None = None
    """File of templates; the one that comes with this program (configs/model/templates.json) when left out."""
    log_interval: PositiveInt = 1000
    """Rows between updates of the progress bar."""
    handler_name: str = "generic"
    """What finds question and answer in a row: a name in `mindrl.data.handlers.HANDLERS`, or a function of yours,
    `package.module:function`."""
    seq_length: PositiveInt
    """Prompts with more tokens are dropped and counted."""
    map_keys: MapKeys
    """Which column holds what."""
    dataset_additional_keys: tuple[str, ...] = ()
    """Further columns to keep, for rewards."""
    on_bad_row: Literal["drop", "error"] = "drop"
    """What to do with a row that gives no prompt for another reason than its length: count it, or refuse the set."""
    max_row_bytes: PositiveInt = 4 << 20
    """Larger rows are dropped and counted, so that one of them can't fill the memory."""

    @model_validator(mode="after")
    def _columns_are_named(self) -> Self:
        if not (self.map_keys.prompt and self.map_keys.response):
            raise ValueError("map_keys.prompt and map_keys.response must each name a column")
        if not self.output_prefix.name:
            raise ValueError(
                f"output_prefix {self.output_prefix} ends in no name; give one, such as outputs/data/train"
            )
        return self

    def needed_places(self) -> tuple[str, ...]:
        """Where something is looked for in a row."""
        return (*self.map_keys.places(), *self.dataset_additional_keys)

    @property
    def output(self) -> Path:
        """The parquet file."""
        return self.output_prefix.with_name(f"{self.output_prefix.name}.parquet")
