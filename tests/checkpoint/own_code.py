"""A model directory as Moonlight's: a tiktoken vocabulary, and Python code for tokenizer, model and configuration.

Every Python file leaves a mark where it is run, so that a test sees which ones were."""

import base64
import json
from pathlib import Path

from hf_models import write_model

VOCABULARY = [bytes([byte]) for byte in range(256)] + [b"he", b"ll", b"llo", b"hello"]
MARK = "from pathlib import Path\nPath({place!r}).touch()\n"
TOKENIZER = """
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from transformers import PreTrainedTokenizer

from .tiny_pattern import PATTERN


class TinyTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tiktoken.model"}

    def __init__(self, vocab_file, **options):
        ranks = load_tiktoken_bpe(vocab_file)
        self.model = tiktoken.Encoding("tiny", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self.names = {f"<{rank}>": rank for rank in ranks.values()}
        super().__init__(**options)

    @property
    def vocab_size(self):
        return self.model.n_vocab

    def get_vocab(self):
        return self.names | self.added_tokens_encoder

    def _tokenize(self, text, **options):
        return [f"<{rank}>" for rank in self.model.encode(text)]

    def _convert_token_to_id(self, token):
        return self.names[token]

    def _convert_id_to_token(self, index):
        return f"<{index}>"

    def convert_tokens_to_string(self, tokens):
        return self.model.decode([self.names[token] for token in tokens])
"""
PYTHON = {
    "tokenization_tiny.py": TOKENIZER,
    "tiny_pattern.py": 'PATTERN = r"[a-z]+|[^a-z]"\n',
    "modeling_tiny.py": "class TinyModel: ...\n",
    "configuration_tiny.py": "class TinyConfig: ...\n",
}


def write_model_with_code(directory: Path, marks: Path, family: str = "qwen2", rows: int = 272) -> Path:
    """Each Python file leaves `marks/<its name>` when it is run. `rows`: of the embedding."""
    write_model(directory, family, vocab_size=rows)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink(missing_ok=True)
    marks.mkdir()
    ranks = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(VOCABULARY)]
    (directory / "tiktoken.model").write_text("".join(ranks))
    for name, text in PYTHON.items():
        (directory / name).write_text(MARK.format(place=str(marks / name)) + text)
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization_tiny.TinyTokenizer", None]},
        "bos_token": "[BOS]",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForCausalLM": "modeling_tiny.TinyModel",
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def files_run(marks: Path) -> list[str]:
    """Names of the Python files that were run."""
    return sorted(path.name for path in marks.iterdir())
