from pathlib import Path

from mindrl.config import load
from mindrl.config.paths import with_absolute_paths


def test_every_path_becomes_absolute_and_nothing_else_changes():
    config = load("configs/grpo_quickstart.yaml", ["model.checkpoint=/somewhere/else"])
    absolute = with_absolute_paths(config)
    assert absolute.model.path == Path.cwd() / config.model.path
    assert absolute.model.checkpoint == Path("/somewhere/else")
    assert [source.path for source in absolute.data.train] == [
        Path.cwd() / source.path for source in config.data.train
    ]
    assert absolute.trainer.output_dir == Path.cwd() / config.trainer.output_dir
    assert absolute.actor == config.actor
