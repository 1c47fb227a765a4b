"""The truth of the W1 benchmark is true, its scores and tables say what they name, and its samples
are never seen twice."""

import importlib
import json
import sys
import types
from pathlib import Path

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from otjax import gan, nn


BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")
# The published pair of two dimensions and four funnels, and its W1, to a standard error of 8e-4.
CENTRES = [[0.4718, -2.3439], [0.4889, 0.1953], [1.7911, 1.2045], [-1.7170, 1.2050]]
OFFSETS = [-0.0389, -0.0913, -0.0691, -0.1027]
DISTANCE = 0.8209

pytestmark = helpers.skip_without("benchmarks", "scipy", "tqdm", "tyro")


@pytest.fixture
def bench(monkeypatch):
    """The script and the modules of the package beside it, found as the script finds them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("funnels", "published", "report", "training")
    modules = {name: importlib.import_module(f"w1.{name}") for name in names}
    yield types.SimpleNamespace(**modules, script=importlib.import_module("w1_benchmark"))
    ours = ("w1", "w1_benchmark", "accelerator", "host")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


def double(funnels):
    return type(funnels)(*(jnp.asarray(np.asarray(array, np.float64)) for array in funnels))


def inside(size: int, dim: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-2.5, 2.5, (size, dim))


def cones(funnels, x: np.ndarray) -> np.ndarray:
    """Of each point, the height of each cone."""
    centres, offsets = (np.asarray(array, np.float64) for array in funnels)
    return np.stack([np.linalg.norm(x - a, axis=1) for a in centres], axis=1) + offsets


def moved(funnels, x: np.ndarray) -> np.ndarray:
    """The definition: a point at the share t of its ray goes to the share t^8. The ray, from the
    centre, ends at the cube's face or where the cone is no longer the least, found by bisection.
    """
    nearest = np.argmin(cones(funnels, x), axis=1)
    low = np.asarray(funnels.centres, np.float64)[nearest]
    distance = np.linalg.norm(x - low, axis=1, keepdims=True)
    direction = (x - low) / distance
    within, beyond = np.zeros_like(distance), np.full_like(distance, 5 * np.sqrt(x.shape[1]))
    for _ in range(60):
        middle = (within + beyond) / 2
        point = x + middle * direction
        heights = cones(funnels, point)
        least = heights[np.arange(len(x)), nearest] <= heights.min(axis=1) + 1e-13
        stays = (least & (abs(point).max(axis=1) <= 2.5))[:, None]
        within, beyond = np.where(stays, middle, within), np.where(stays, beyond, middle)
    length = distance + within
    return low + (distance / length) ** 8 * length * direction


@pytest.mark.parametrize(("dim", "count"), [(2, 64), (16, 4)])
def test_points_move_as_defined_and_as_far_as_the_potential_falls(bench, dim, count):
    funnels = double(bench.funnels.draw(dim, count, 1))
    x = inside(1000, dim)
    images = np.asarray(jax.jit(bench.funnels.moved)(funnels, x))
    fall = cones(funnels, x).min(axis=1) - cones(funnels, images).min(axis=1)
    # A potential of slope one falls by no more: no plan is cheaper.
    np.testing.assert_allclose(fall, np.linalg.norm(x - images, axis=1), atol=1e-9)
    np.testing.assert_allclose(images, moved(funnels, x), atol=1e-7)


def test_the_mean_distance_is_that_of_the_published_pair(bench):
    funnels = bench.funnels.Funnels(jnp.asarray(CENTRES), jnp.asarray(OFFSETS))
    line = np.linspace(-2.5, 2.5, 401)[:-1] + 2.5 / 400
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    images = np.asarray(jax.jit(bench.funnels.moved)(funnels, grid))
    assert np.linalg.norm(grid - images, axis=1).mean() == pytest.approx(DISTANCE, abs=0.0024)


@pytest.mark.parametrize("dim", [2, 16])
def test_the_best_gradient_is_that_of_the_potential_downwards(bench, dim):
    funnels = double(bench.funnels.draw(dim, 16, 2))
    x = moved(funnels, inside(300, dim))  # 300: not whole batches of the map
    best_gradient = jax.jit(bench.funnels.best_gradient)
    found = np.asarray(best_gradient(funnels, x))
    heights = np.sort(cones(funnels, x), axis=1)
    far = np.min(cones(funnels._replace(offsets=np.zeros(16)), x), axis=1) > 1e-3
    smooth = far & (heights[:, 1] - heights[:, 0] > 1e-3)
    assert smooth.sum() > 150
    steps = 1e-6 * np.eye(dim)
    for step, slopes in zip(steps, found[smooth].T, strict=True):
        ahead, behind = (cones(funnels, x[smooth] + s * step).min(axis=1) for s in (1, -1))
        np.testing.assert_allclose(slopes, -(ahead - behind) / 2e-6, atol=1e-5)
    assert np.isfinite(best_gradient(funnels, funnels.centres)).all()


@pytest.mark.parametrize("dim", [2, 16])
def test_pairs_side_by_side_are_what_they_are_alone(bench, dim):
    module = bench.funnels
    pairs = [module.draw(dim, count, 3) for count in (4, 9)]
    stacked = module.stacked(pairs)
    assert stacked.offsets.shape == (2, 9)
    moved, best_gradient = jax.jit(module.moved), jax.jit(module.best_gradient)
    x = inside(200, dim).astype(np.float32)
    for place, alone in enumerate(pairs):
        beside = jax.tree.map(lambda array, place=place: array[place], stacked)
        images = moved(alone, x)
        np.testing.assert_allclose(moved(beside, x), images, atol=2e-5)
        gradients = best_gradient(alone, images)
        np.testing.assert_array_equal(best_gradient(beside, images), gradients)


class Potential(eqx.Module):
    """A multiple of the potential, as a critic."""

    funnels: tuple[jax.Array, jax.Array]
    factor: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        centres, offsets = self.funnels
        return self.factor * jnp.min(jnp.linalg.norm(x[None] - centres, axis=1) + offsets)


def test_scores_are_those_of_known_critics(bench):
    pairs = bench.funnels.stacked([bench.funnels.draw(16, 4, 4)] * 2)
    factors = (-1.0, 0.5)
    critics = Potential(tuple(pairs), jnp.asarray(factors, jnp.float32))
    trained = bench.training.Trained(critics, 0.0, 0.0)
    scores = bench.training.evaluate(trained, pairs, 0, size=4000)
    x = inside(4000, 16)
    truth = np.linalg.norm(x - moved(bench.funnels.draw(16, 4, 4), x), axis=1).mean()
    for factor, score in zip(factors, scores, strict=True):
        assert score.cos == pytest.approx(-np.sign(factor), abs=1e-3)
        assert score.l2 == pytest.approx((1 + factor) ** 2, abs=1e-3)
        assert score.mean_slope == pytest.approx(abs(factor), abs=1e-3)
        assert score.max_slope == pytest.approx(abs(factor), abs=1e-3)
        assert score.truth == pytest.approx(truth, abs=0.1)
        assert score.w1 == pytest.approx(-factor * truth, abs=0.1)


def small(bench):
    """A setting that compiles soon."""
    return bench.script.SETTINGS["gp"]._replace(
        network=lambda dim, key: nn.MLPCritic(dim, width=2, depth=1, key=key),
        objective=gan.WGAN(),
        optimiser=lambda updates: optax.sgd(0.1),
        batch=5,
    )


def test_no_sample_is_drawn_twice(bench, jax_as_users_have_it, monkeypatch):
    """Neither by training and scores, nor for two pairs, nor for both measures."""
    drawn, uniform = [], bench.funnels.uniform

    def recorded(*args):
        x = uniform(*args)
        jax.debug.callback(lambda x: drawn.append(np.asarray(x)), x)
        return x

    monkeypatch.setattr(bench.funnels, "uniform", recorded)
    setting = small(bench)._replace(updates=2)
    for count in (1, 2):
        drawn.clear()
        pairs = bench.funnels.stacked([bench.funnels.draw(2, 3, 0)] * count)
        trained = bench.training.train(setting, pairs, 0)
        bench.training.evaluate(trained, pairs, 0, size=7)
        jax.effects_barrier()
        points = np.concatenate(drawn)
        assert len(points) == count * 2 * (2 * 5 + 7)
        assert len(np.unique(points, axis=0)) == len(points)


def test_the_average_of_the_weights_forgets_the_first_ones_sooner(bench, jax_as_users_have_it):
    pairs = bench.funnels.stacked([bench.funnels.draw(2, 3, 0)])

    def weights(updates, ema_decay=0.0, chunk=100):
        setting = small(bench)._replace(updates=updates, ema_decay=ema_decay)
        critics = bench.training.train(setting, pairs, 0, chunk=chunk).critics
        return np.asarray(critics.layers[0].weight)

    first, second, third = (weights(updates) for updates in (1, 2, 3))
    assert abs(second - first).max() > 1e-4
    # 0.1 is more than 1 / 11 and less than 2 / 12.
    expected = first + (1 - 1 / 11) * (second - first)
    expected += 0.9 * (third - expected)
    np.testing.assert_allclose(weights(3, 0.1, chunk=2), expected, rtol=1e-5, atol=1e-7)


def test_the_published_numbers_are_read_right(bench):
    table = bench.published.published()
    assert len(table) == 28
    names = ("WC", "GP", "LP", "SN", "SO", "LS", "MM:B", "MM:Bv2", "MM", "MM:R", "DOT")
    cos = (0.15, 0.78, 0.78, 0.16, 0.57, -0.24, -0.03, 0.58, 0.62, 0.73, 0.06)
    l2 = (3.42, 0.46, 0.46, 1.32, 0.77, 1.39, 1.12, 2.84, 1.92, 0.53, 1.90)
    w1 = (0.52, 1.36, 1.35, 0.19, 0.85, -0.20, -0.05, 2.14, 1.74, 1.80, 3.98)
    expected = dict(zip(names, zip(cos, l2, w1, strict=True), strict=True))
    scores = {name: tuple(score) for name, score in table[16, 64].items()}
    assert scores.pop("truth")[2] == 1.55
    assert scores == expected
    # Discrete transport is better there, but no neural solver.
    assert table[2, 64]["DOT"].cos == 0.72
    assert bench.published.best_cos(table[2, 64]) == ("LP", 0.68)


def record(dim=2, funnels=4, critic="gp", pairs="drawn", **others):
    numbers = {"cos": 0.5, "l2": 0.25, "w1": 1.1, "truth": 1.0, "updates": 3, "full_updates": 9000}
    return {"dim": dim, "funnels": funnels, "critic": critic, "pairs": pairs, **numbers, **others}


def test_a_row_stands_beside_the_published_solver(bench):
    rows = [record(), record(critic="recipe", pairs="file"), record(dim=3, pairs="file")]
    *_, counterpart, best, unknown = bench.report.table(rows).splitlines()
    ours = "3 of 9,000 | 0.500"
    w1 = "1.100 | 1.000 | +10 %"
    assert counterpart == (
        f"| 2 | 4 | gp (own pair) | {ours} | 0.84 (GP) | 0.250 | 0.09 | {w1} | +5 % |"
    )
    assert best == f"| 2 | 4 | recipe | {ours} | 0.86 (MM:B) | 0.250 | 0.07 | {w1} | -4 % |"
    assert unknown == f"| 3 | 4 | gp | {ours} |  | 0.250 |  | {w1} |  |"


def test_a_record_replaces_that_of_its_pair_and_critic_only(bench):
    others = [
        record(critic="lp"),
        record(pairs="file"),
        record(dim=16),
        record(funnels=16),
    ]
    new = record(cos=0.9)
    found = bench.script.merged([record(), *others], [new])
    assert sorted(map(str, found)) == sorted(map(str, [new, *others]))
    assert [one["dim"] for one in found] == [2, 2, 2, 2, 16]


@pytest.fixture
def run(bench, jax_as_users_have_it, monkeypatch):
    """Runs the script with these options."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["w1_benchmark.py", *map(str, options)])
        return bench.script.main()

    return run


@pytest.mark.parametrize(
    "options",
    [
        ["--critics", "gp", "gan"],
        ["--critics"],
        ["--dims"],
        ["--dims", "2", "0"],
        ["--funnel-counts"],
        ["--updates", "0"],
        ["--batch", "0"],
        ["--budget-fraction", "nan"],
        ["--budget-fraction", "inf"],
        ["--seed", "-1"],
        ["--seed", str(2**64)],
        ["--funnels", "absent.npz"],
        ["--funnels", "pair.npz", "--dims", "2", "--funnel-counts", "16"],
        ["--funnels", "shape.npz", "--dims", "2", "--funnel-counts", "4"],
    ],
    ids=" ".join,
)
def test_bad_options_are_refused(bench, run, tmp_path, monkeypatch, capsys, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench.script, "train", None)  # it must not come to that
    np.savez("pair.npz", D2_N4_centers=CENTRES, D2_N4_offsets=OFFSETS)
    np.savez("shape.npz", D2_N4_centers=CENTRES, D2_N4_offsets=OFFSETS[:3])
    assert run(*options, "--output", "out/w1.json") == 2
    name = options[0].removeprefix("--").replace("-", "_")
    assert f"error: `{name}`" in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_output_that_holds_something_else_is_left_alone(
    bench, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(bench.script, "train", None)
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    for output in mine, mine / "w1.json":
        assert run("--dims", 2, "--funnel-counts", 4, "--output", output) == 2
        assert "error: `output`" in capsys.readouterr().err
    assert mine.read_text() == "{}"


def test_the_script_adds_its_records_to_those_there(run, tmp_path, capsys):
    file, output = tmp_path / "pair.npz", tmp_path / "out" / "w1.json"
    np.savez(file, D2_N4_centers=CENTRES, D2_N4_offsets=OFFSETS)
    tiny = "--dims 2 --funnel-counts 4 --updates 3 --batch 16".split()
    assert run(*tiny, "--critics", "recipe", "--funnels", file, "--output", output) == 0
    before = json.loads(output.read_text())["records"]
    assert run(*tiny, "--critics", "gp", "--output", output) == 0
    records = json.loads(output.read_text())["records"]
    assert [(one["critic"], one["pairs"]) for one in records] == [
        ("gp", "drawn"),
        ("recipe", "pair.npz"),
    ]
    assert records[1:] == before
    for one in records:
        assert (one["dim"], one["funnels"], one["updates"], one["batch"]) == (2, 4, 3, 16)
        assert one["full_updates"] == 60_000
        assert -1 <= one["cos"] <= 1 and 0 < one["mean_slope"] <= one["max_slope"]
    assert records[1]["truth"] == pytest.approx(DISTANCE, abs=0.01)
    table = output.with_suffix(".md").read_text()
    assert len(table.splitlines()) == 4
    assert table in capsys.readouterr().out


def test_a_loss_that_is_not_finite_ends_the_run(bench, run, tmp_path, monkeypatch, capsys):
    wild = small(bench)._replace(optimiser=lambda updates: optax.sgd(1e30))
    monkeypatch.setitem(bench.script.SETTINGS, "gp", wild)
    output = tmp_path / "w1.json"
    options = "--dims 2 --funnel-counts 4 --updates 4 --batch 8 --critics gp --output".split()
    assert run(*options, output) == 2
    assert "not finite after 4 updates" in capsys.readouterr().err
    assert not output.exists()
