"""The truth of the W2 benchmark is true, and its scores say what they name."""

import importlib
import json
import sys
import types
from pathlib import Path

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest


BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")

pytestmark = [
    helpers.skip_without("benchmarks", "tyro"),
    pytest.mark.usefixtures("jax_as_users_have_it"),
]


@pytest.fixture
def bench(monkeypatch):
    """The script and the package beside it, found as the script finds them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    pairs = importlib.import_module("w2.pairs")
    yield types.SimpleNamespace(pairs=pairs, script=importlib.import_module("w2_benchmark"))
    ours = ("w2", "w2_benchmark", "accelerator", "host")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


def test_the_source_is_the_published_mixture(bench):
    """By numbers of the published recipe: factors, centres, and a mean variance of one."""
    mixture = bench.pairs.mixture(4)
    unit = np.sqrt(2 / 3 + 0.16)
    np.testing.assert_allclose(mixture.centres[:, :2] * unit, [[1, 1], [0, -1], [-1, 0]], atol=1e-6)
    assert abs(mixture.factors[0, 0, 0] / 0.4 - 0.994152) < 1e-5
    assert abs(jnp.sum(mixture.factors) / 0.4 - 0.48848) < 1e-4
    x = bench.pairs.sample(mixture, jr.key(0), 2**14)
    assert abs(jnp.mean(jnp.var(x, axis=0)) - 1) < 0.03


def test_a_network_is_that_of_the_published_formula(bench):
    rng = np.random.default_rng(0)
    a, w, c = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 2)), rng.uniform(size=(2, 5, 5))
    b, final = rng.normal(size=(3, 5)), rng.uniform(size=5)
    x = np.array([0.3, -0.8])
    celu = lambda t: np.where(t > 0, t, np.expm1(np.minimum(t, 0)))
    q = [(a[i] @ x) ** 2 + w[i] @ x + b[i] for i in range(3)]
    expected = final @ celu(c[1] @ celu(c[0] @ q[0] + q[1]) + q[2]) + 0.005 * x @ x
    parts = (tuple(jnp.asarray(part, jnp.float32)) for part in (a, w, b, c))
    network = bench.pairs.Network(*parts, jnp.asarray(final, jnp.float32))
    np.testing.assert_allclose(
        bench.pairs.value(network, jnp.asarray(x, jnp.float32)), expected, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["drawn", "gaussian"])
def test_a_map_is_the_gradient_of_a_convex_function(bench, monkeypatch, kind):
    monkeypatch.setattr(bench.pairs, "MOMENTS", 2**12)
    pair = bench.pairs.draw(3, 1) if kind == "drawn" else bench.pairs.gaussians(3, 1)
    x = bench.pairs.sample(pair.source, jr.key(0), 300)
    jacobians = jax.vmap(jax.jacobian(lambda x: pair.map(x[None])[0]))(x)
    np.testing.assert_allclose(jacobians, jacobians.transpose(0, 2, 1), atol=1e-4)
    assert jnp.min(jnp.linalg.eigvalsh(jacobians)) > 0
    if kind == "drawn":
        images = pair.map(bench.pairs.sample(pair.source, jr.key(1), 4096))
        assert jnp.max(jnp.abs(jnp.mean(images, axis=0))) < 0.1
        assert abs(jnp.mean(jnp.var(images, axis=0)) - 1) < 0.1


def test_scores_are_those_of_the_definition(bench):
    rng = np.random.default_rng(0)
    x, truth, images = (jnp.asarray(rng.normal(size=(50, 2)), jnp.float32) for _ in range(3))
    found = bench.script.scores(images, truth, x)
    assert found["l2_uvp"] == pytest.approx(
        float(100 * np.sum((images - truth) ** 2) / np.sum((truth - truth.mean(0)) ** 2)), rel=1e-4
    )
    moved, best = np.asarray(images - x), np.asarray(truth - x)
    cos = np.sum(moved * best) / np.linalg.norm(moved) / np.linalg.norm(best)
    assert found["cos"] == pytest.approx(cos, rel=1e-4)
    assert bench.script.scores(truth, truth, x) == pytest.approx({"l2_uvp": 0, "cos": 1}, abs=1e-5)


def test_options_that_make_no_sense(bench):
    wrong = {
        "method": {"method": "magic"},
        "dimensions": {"dimensions": (1,)},
        "steps": {"steps": 0},
        "batch": {"batch": 1},
        "pairs": {"pairs": Path("x"), "gaussian": True},
    }
    for name, options in wrong.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            bench.script.checked(bench.script.Options(**options))
    with pytest.raises(ValueError, match="`pairs`"):
        bench.pairs.load(Path("nowhere"), 2)


@pytest.mark.slow
def test_the_script_writes_its_records(bench, monkeypatch, tmp_path):
    output = tmp_path / "w2.json"
    for seed in ("0", "1"):
        arguments = ["w2", "--dimensions", "2", "--steps", "5", "--batch", "32", "--gaussian"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--seed", seed, "--output", str(output)])
        assert bench.script.main() == 0
    (record,) = json.loads(output.read_text())["records"]
    assert record["pair"] == "gaussian" and record["seed"] == 1 and record["l2_uvp"] < 100
