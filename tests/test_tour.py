"""The tour is one Python session: every answer that it prints is Python's."""

import doctest
import re
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[1] / "docs" / "tour.md"


def test_every_line_of_the_tour_answers_what_is_printed_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # it saves a picture
    failed, attempted = doctest.testfile(str(TOUR), module_relative=False, encoding="utf-8")
    assert attempted > 0
    assert failed == 0
    assert (tmp_path / "tour.png").exists()


def test_the_tour_has_twelve_steps_with_something_to_type_in_each():
    _, *steps = re.split(r"^## ", TOUR.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [step.split(".")[0] for step in steps] == [str(number) for number in range(1, 13)]
    assert all("\n    >>> " in step for step in steps)
