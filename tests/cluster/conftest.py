"""A small cluster in this process: two workers of one thread, whose messages go through sockets."""

import pytest


@pytest.fixture(scope="session")
def cluster():
    """The address of its scheduler."""
    distributed = pytest.importorskip("distributed", reason="needs Dask: `python -m pip install '.[cluster]'`")
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=0,
    ) as cluster:
        yield cluster.scheduler_address
