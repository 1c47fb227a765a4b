"""Several devices, eight of the host in processes of their own; and programs for any size."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import otjax


HERE = Path(__file__).parent


def environment() -> dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(HERE.parent), JAX_DISABLE_MOST_OPTIMIZATIONS="1")


def run(*cases: str) -> str:
    env = environment()
    if cases == ("memory",):  # is what the compiler's optimisations leave of it
        del env["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    script = [sys.executable, str(HERE / "on_devices.py"), *cases]
    done = subprocess.run(script, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["dense", "streamed", "cells", "pallas", "uneven", "memory", "explicit", "training"]
)
def test_eight_devices(case):
    run(case)


@pytest.mark.slow
def test_two_processes_of_eight_devices():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, str(HERE / "on_processes.py"), port, str(index)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in both:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-4000:]
        assert "the numbers of one process" in output


def test_rows_are_filled_up_and_wrong_layouts_are_named(unchecked):
    x = np.random.default_rng(0).normal(size=(5, 2))
    mesh = jax.make_mesh((1,), ("i",), devices=jax.devices()[:1])
    by_rows = NamedSharding(mesh, PartitionSpec("i"))
    points, masses = otjax.spread_rows(x, sharding=by_rows)
    np.testing.assert_array_equal(points, x)
    np.testing.assert_allclose(masses, 0.2)
    for name, arguments in (
        ("`x`", {"x": x[0]}),
        ("`a`", {"a": np.ones(4)}),
        ("`sharding`", {"sharding": mesh}),
        ("`sharding`", {"sharding": NamedSharding(mesh, PartitionSpec(None, "i"))}),
    ):
        with pytest.raises(ValueError, match=name):
            otjax.spread_rows(**({"x": x, "sharding": by_rows} | arguments))


def test_rows_by_shares(monkeypatch):
    """Blocks of rows that several devices may share are those of one device."""
    x, y = (np.random.default_rng(k).normal(size=(n, 2)) for k, n in enumerate((20, 11)))
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=otjax.Streamed(7)))
    plan = lambda: otjax.solve(problem, throw=False).plan.mv(jnp.ones(11))
    want = plan()
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    jax.clear_caches()
    np.testing.assert_allclose(plan(), want, rtol=1e-7)
