"""Damaged files of every format: each gives a network or one sentence, in little time and memory."""

import pytest
from weight_files import FORMATS
from weight_fuzz import fuzz

CASES = 160


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_loaded_or_refused_in_one_sentence(name, tmp_path):
    outcomes = fuzz(tmp_path, seed=20, cases=CASES, formats=[name])
    assert sum(outcomes.counts.values()) == CASES
    assert outcomes.counts["refused"] > CASES // 5  # the damage hits what matters
