"""What the commands' tests share."""

import pytest
from picture_files import drawn

from nst_manual.pictures.demo import painting, scene


@pytest.fixture
def pictures(tmp_path):
    drawn(scene, 64, 48).save(tmp_path / "content.png")
    drawn(painting, 64, 64).save(tmp_path / "style.png")
    return str(tmp_path / "content.png"), str(tmp_path / "style.png")
