"""Sweeps on Dask and Ray by the name of joblib's backend, on local workers: the same tables as in one process.

Outside of the commit gate: ``pip install -e '.[distributed]'``, then ``pytest -m distributed``.
"""

from __future__ import annotations

import pytest

import llmsim

pytestmark = pytest.mark.distributed

LIMIT = {"p99_ttft_ms": 200}
GRID = {"max_num_seqs": [4, 16], "request_rate": [4, 20]}


@pytest.fixture(scope="module")
def chat():
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=30)


@pytest.fixture(scope="module")
def serial(chat):
    return llmsim.sweep(chat, GRID, replications=2)


def test_dask_gives_the_serial_table(chat, serial, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        told = llmsim.sweep(chat, GRID, replications=2, n_jobs=-1, backend="dask")
        rate = llmsim.capacity(chat.with_(request_rate=20), LIMIT, tolerance=0.2, n_jobs=-1, backend="dask")
    assert told.equals(serial)
    assert rate == llmsim.capacity(chat.with_(request_rate=20), LIMIT, tolerance=0.2)


def test_ray_gives_the_serial_table(chat, serial):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        told = llmsim.sweep(chat, GRID, replications=2, n_jobs=2, backend="ray")
        rate = llmsim.capacity(chat.with_(request_rate=20), LIMIT, tolerance=0.2, n_jobs=2, backend="ray")
    finally:
        ray.shutdown()
    assert told.equals(serial)
    assert rate == llmsim.capacity(chat.with_(request_rate=20), LIMIT, tolerance=0.2)
