"""Several devices, eight of the host in processes of their own; and programs for any size."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


HERE = Path(__file__).parent


def run(*cases: str) -> str:
    env = dict(os.environ, PYTHONPATH=str(HERE.parent), JAX_DISABLE_MOST_OPTIMIZATIONS="1")
    if cases == ("memory",):  # is what the compiler's optimisations leave of it
        del env["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    script = [sys.executable, str(HERE / "on_devices.py"), *cases]
    done = subprocess.run(script, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("case", ["dense", "streamed", "memory", "explicit", "training"])
def test_eight_devices(case):
    run(case)


def test_rows_by_shares(monkeypatch):
    """Blocks of rows that several devices may share are those of one device."""
    x, y = (np.random.default_rng(k).normal(size=(n, 2)) for k, n in enumerate((20, 11)))
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y, engine=otjax.Streamed(7)))
    plan = lambda: otjax.solve(problem, throw=False).plan.mv(jnp.ones(11))
    want = plan()
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    jax.clear_caches()
    np.testing.assert_allclose(plan(), want, rtol=1e-7)
