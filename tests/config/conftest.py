from pathlib import Path

import pytest

from tests.config.config_files import minimal_yaml


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return minimal_yaml(tmp_path)
