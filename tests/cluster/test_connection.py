"""What --cluster may be, and what is said where there is no Dask."""

import sys

import pytest

from nst_manual import NSTError, transfer
from nst_manual.cluster.connection import opened
from nst_manual.options import OptionError
from nst_manual.settings import Run, Settings


@pytest.mark.parametrize("text", ["locally", "local:0", "local:x", "http://host:1", "tcp://", ""])
def test_what_is_no_cluster_is_refused(text):
    with pytest.raises(OptionError, match="must be local, local:N, a scheduler's address"):
        Run(cluster=text)


def test_without_dask_one_sentence_says_how_to_get_it(monkeypatch):
    for name in ("dask", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(NSTError, match="--cluster needs Dask"), opened(Settings(), Run(cluster="local")):
        pass


def test_what_one_process_needs_is_refused_before_a_picture_is_read():
    with pytest.raises(NSTError, match="--optimizer l-bfgs-b works in one process"):
        transfer("missing.png", "missing.png", cluster="local", optimizer="l-bfgs-b")
