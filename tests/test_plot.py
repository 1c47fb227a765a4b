"""Pictures: what their artists hold is what the solutions say."""

import importlib.util
import subprocess
import sys

import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otjax


pytestmark = helpers.skip_without("plot", "matplotlib")

if importlib.util.find_spec("matplotlib"):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    from otjax import plot

N, M = 7, 5


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def points():
    key_x, key_y = jax.random.split(jax.random.key(0))
    return jax.random.normal(key_x, (N, 2)), jax.random.normal(key_y, (M, 2)) + 1


@pytest.fixture(scope="module")
def solution(points):
    problem = otjax.EntropicProblem(
        otjax.PointCloud(*points), epsilon=0.3, marginals=otjax.Unbalanced(2.0)
    )
    return otjax.solve(problem)


@pytest.fixture(scope="module")
def matrix(solution):
    return np.asarray(solution.plan.as_matrix())


def test_importing_otjax_imports_no_matplotlib():
    code = "import otjax, sys; assert not [m for m in sys.modules if m.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_figure_is_pyplots(solution):
    ax = plot.plan_matrix(solution)
    assert ax.figure.number in pyplot.get_fignums()
    pyplot.close(ax.figure)


def test_plan_as_a_matrix(solution, matrix, ax):
    assert plot.plan_matrix(solution, ax=ax) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix)


def test_plan_as_lines(solution, matrix, points, ax):
    x, y = map(np.asarray, points)
    assert plot.plan_lines(solution, x, y, share=0.2, ax=ax) is ax
    (lines,) = ax.collections[:1]
    i, j = np.nonzero(matrix >= 0.2 * matrix.max())
    assert 0 < len(i) < N * M  # or `share` could be ignored
    segments = np.stack(lines.get_segments())
    np.testing.assert_allclose(segments, np.stack([x[i], y[j]], axis=1))
    np.testing.assert_allclose(lines.get_alpha(), matrix[i, j] / matrix.max())
    for discs, cloud, axis in zip(ax.collections[1:], (x, y), (1, 0), strict=True):
        np.testing.assert_allclose(discs.get_offsets(), cloud)
        mass = matrix.sum(axis=axis)
        np.testing.assert_allclose(discs.get_sizes(), 20 * mass / mass.mean())


def test_marginals_of_an_unbalanced_plan(solution, matrix, ax):
    places = np.array([0.0, 1, 2, 3, 4, 5, 6.5])
    assert plot.marginals(solution, places, ax=ax) is ax
    given, moved = ax.containers
    np.testing.assert_allclose([bar.get_height() for bar in given], 1 / N)
    np.testing.assert_allclose([bar.get_height() for bar in moved], matrix.sum(axis=1))
    for bars in (given, moved):
        np.testing.assert_allclose([bar.get_center()[0] for bar in bars], places)


def test_map_as_arrows(solution, points, ax):
    x = points[0]
    assert plot.map_arrows(solution.transport, x, ax=ax) is ax
    (arrows,) = ax.collections
    np.testing.assert_allclose(arrows.XY, x)
    way = np.stack([arrows.U, arrows.V], axis=1)
    np.testing.assert_allclose(way, solution.transport(x) - x)


def test_potential_in_the_plane(ax):
    points = jnp.array([[0.0, 0.0], [2.0, 1.0]])
    asked = []

    def function(x):
        asked.append(x)
        return x[:, 0] + 10 * x[:, 1]

    assert plot.potential(function, points, resolution=7, levels=4, ax=ax) is ax
    np.testing.assert_allclose(asked[0].min(axis=0), [-0.2, -0.1], atol=1e-6)
    np.testing.assert_allclose(asked[0].max(axis=0), [2.2, 1.1], atol=1e-6)
    assert asked[0].shape == (49, 2)
    filled, discs = ax.collections
    assert filled.zmin == pytest.approx(-1.2) and filled.zmax == pytest.approx(13.2)
    # It rises upwards ten times as fast as to the right: no axes are exchanged.
    (first, *_) = [path.get_extents() for path in filled.get_paths() if len(path.vertices)]
    assert first.height < first.width
    np.testing.assert_allclose(discs.get_offsets(), points)


def straight(t):
    x = jnp.array([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    return x + t * jnp.array([[4.0, 0.0]]), jnp.array([0.25, 0.75, 0.0])


def test_geodesic_as_frames():
    axes = plot.frames(straight, [0, 0.5, 1], axes=Figure().subplots(1, 3))
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    for ax, t in zip(axes, (0, 0.5, 1), strict=True):
        points, _ = straight(t)
        np.testing.assert_allclose(ax.collections[0].get_offsets(), points)
        np.testing.assert_allclose(ax.collections[0].get_sizes(), [10, 30, 0])
        assert ax.get_title() == f"t = {t:g}"


def test_geodesic_as_an_animation(ax, tmp_path):
    film = plot.animate(straight, [0, 1], interval=7, ax=ax)
    (discs,) = ax.collections
    for frame, t in enumerate((0, 1)):
        film._func(frame)
        np.testing.assert_allclose(discs.get_offsets(), straight(t)[0])
        assert ax.get_title() == f"t = {t}"
    film.save(tmp_path / "film.gif", writer="pillow")
    assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")
    assert film._interval == 7


def test_densities_on_grids():
    density = np.arange(2 * 3 * 5 * 4.0).reshape(6, 5, 4)
    axes = plot.density_frames(density, number=3, axes=Figure().subplots(1, 3))
    for ax, place in zip(axes, (0, 2, 5), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), density[place].T)
        assert ax.images[0].get_clim() == (0, density.max())
        assert ax.get_title() == f"t = {place / 5:g}"
    axes = plot.density_frames(density[:, :, 0], number=2, axes=Figure().subplots(2, 1))
    heights = axes[1].collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == density[5, :, 0].max()


@pytest.mark.parametrize(
    "message, draw",
    [
        ("['`]ax['`]", lambda s, x, y: plot.plan_matrix(s, ax=3)),
        ("`solution`", lambda s, x, y: plot.plan_matrix(3)),
        ("`x` and `y`", lambda s, x, y: plot.plan_lines(s, y, x, ax=Figure().subplots())),
        ("`x`", lambda s, x, y: plot.map_arrows(s.transport, x[:, :1], ax=Figure().subplots())),
        ("`positions`", lambda s, x, y: plot.marginals(s, y[:, 0], ax=Figure().subplots())),
        ("`times`", lambda s, x, y: plot.frames(straight, np.zeros((2, 2)))),
        ("`axes`", lambda s, x, y: plot.frames(straight, [0, 1], axes=Figure().subplots(1, 3))),
        ("`interpolate", lambda s, x, y: plot.frames(lambda t: (x, jnp.ones(2)), [0.5])),
        ("`density`", lambda s, x, y: plot.density_frames(x[0])),
    ],
)
def test_what_cannot_be_drawn_is_told(solution, points, message, draw):
    with pytest.raises((ValueError, TypeError), match=message):
        draw(solution, *points)


def test_convergence_shows_the_reports_that_tell_something(ax, unchecked):
    reports = [(0, 1e6, 9.0), (4, 0.5, 9.0), (8, 0.25, 1.0), (12, 1e-3, 1.0)]
    assert plot.convergence(reports, ax=ax) is ax
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata(), [[4, 0.5], [8, 0.25], [12, 1e-3]])
    annealing, at_end = (np.asarray(points.get_offsets()) for points in ax.collections)
    np.testing.assert_allclose(annealing, [[4, 0.5]])
    np.testing.assert_allclose(at_end, [[8, 0.25], [12, 1e-3]])
    with pytest.raises(ValueError, match="`reports` must be"):
        plot.convergence([(1, 2)], ax=ax)
