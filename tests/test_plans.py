"""What is done with a plan: samples, matches, entropy, interpolations, maps."""

import helpers
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import otjax
from otjax._couplings import column_at


def solution(engine="dense", **kwargs):
    return otjax.solve(helpers.make_problem(engine=engine, zeros=True, **kwargs))


@pytest.mark.parametrize("engine", ["dense", "streamed", "matrix"])
def test_samples_follow_the_plan(engine):
    found = solution(engine)
    plan = np.asarray(found.plan.as_matrix())
    i, j = found.sample(jr.key(0), 20_000)
    counts = np.zeros_like(plan)
    np.add.at(counts, (np.asarray(i), np.asarray(j)), 1 / 20_000)
    law = plan / plan.sum()
    # Four standard deviations of each count.
    assert np.all(np.abs(counts - law) <= 4 * np.sqrt(law / 20_000) + 1e-12)
    assert np.all(counts[law == 0] == 0)
    transposed = found.T.sample(jr.key(0), 50)
    assert np.all(law[np.asarray(transposed[1]), np.asarray(transposed[0])] > 0)
    partners = np.asarray(jax.vmap(found.sample_partners)(jr.split(jr.key(1), 400)))
    row = plan.sum(1).argmax()
    frequencies = np.bincount(partners[:, row], minlength=plan.shape[1]) / 400
    np.testing.assert_allclose(frequencies, plan[row] / plan[row].sum(), atol=0.1)


def test_rounding_never_draws_a_column_without_mass():
    keys = jr.split(jr.key(0))
    law = jr.uniform(keys[0], (20000,), "float32")
    law = jnp.where(jr.uniform(keys[1], (20000,)) < 0.1, law, 0)
    cumulative = np.asarray(jnp.cumsum(law[None, :], axis=1))[0]
    step = np.diff(cumulative, prepend=0)
    (wrong,) = np.nonzero((step > 0) & (np.asarray(law) == 0))
    assert len(wrong)  # sums differ by rounding where they are the same
    level = jnp.asarray(cumulative[wrong - 1] / cumulative[-1])
    drawn = column_at(jnp.broadcast_to(law, (len(wrong), 20000)), level)
    assert np.all(law[drawn] > 0)


@pytest.mark.parametrize("engine", ["dense", "streamed"])
def test_matches_and_entropy(engine):
    found = solution(engine)
    plan = np.asarray(found.plan.as_matrix())
    alive = plan.sum(1) > 0
    np.testing.assert_array_equal(found.match()[alive], plan.argmax(1)[alive])
    np.testing.assert_array_equal(found.T.match()[plan.sum(0) > 0], plan.argmax(0)[plan.sum(0) > 0])
    log = np.log(np.where(plan > 0, plan, 1))
    np.testing.assert_allclose(found.entropy, -np.sum(plan * log), rtol=1e-9)


def test_the_entropy_has_a_derivative():
    x, y = helpers.points()
    entropy = jax.jit(
        lambda epsilon: (
            otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=epsilon)).entropy
        )
    )
    difference = (entropy(0.301) - entropy(0.299)) / 0.002
    np.testing.assert_allclose(jax.grad(entropy)(0.3), difference, rtol=1e-4)


def test_one_to_one_takes_the_largest_pairs_first():
    cost = jr.uniform(jr.key(0), (5, 7))
    found = otjax.solve(otjax.EntropicProblem(otjax.CostMatrix(cost), epsilon=0.05))
    density = np.array(found.plan.as_matrix())
    expected = np.full(5, -1)
    for _ in range(5):
        i, j = np.unravel_index(density.argmax(), density.shape)
        expected[i] = j
        density[i], density[:, j] = -1, -1
    np.testing.assert_array_equal(found.assign(), expected)
    with pytest.raises(ValueError, match=r"solution\.T\.assign"):
        found.T.assign()


def test_one_to_one_knows_the_order_of_densities_that_are_rounded_to_zero():
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.normal(size=(40, 2)) ** 3, jnp.float32) for _ in range(2))
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=otjax.Relative(0.003))
    found = otjax.solve(problem, tolerance=1e-3)
    assert np.mean(found.plan.as_matrix() == 0) > 0.1
    f, g = (np.asarray(potential, float) for potential in found.potentials)
    costs = np.square(np.asarray(x, float)[:, None] - np.asarray(y, float)).sum(2)
    scores, expected = f[:, None] + g - costs, np.zeros(40, int)
    for _ in range(40):
        i, j = np.unravel_index(np.argmax(scores), scores.shape)
        expected[i], scores[i], scores[:, j] = j, -np.inf, -np.inf
    np.testing.assert_array_equal(found.assign(), expected)


def test_interpolation_goes_from_one_side_to_the_other():
    key = jr.key(3)
    x = jr.normal(key, (8, 2))
    y = x[::-1] + jnp.array([[3.0, 1.0]])
    problem = otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=1e-2)
    found = otjax.solve(problem)
    exact = otjax.solve_exact(otjax.PointCloud(x, y), gap=1e-6)
    matched = otjax.assignment(jnp.sum(jnp.square(x[:, None] - y[None]), axis=2))
    for points, masses in (
        found.interpolate(0.25),
        exact.interpolate(0.25),
        matched.interpolate(x, y, 0.25),
    ):
        # The optimal map is a translation.
        np.testing.assert_allclose(points, np.asarray(x) + 0.25 * np.array([3.0, 1.0]), atol=2e-2)
        np.testing.assert_allclose(masses, 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(found.interpolate(0.0)[0], x)
    np.testing.assert_array_equal(exact.match(), found.match())
    assert exact.sample(jr.key(0), 3)[0].shape == (3,)
    with pytest.raises(ValueError, match="PointCloud"):
        otjax.solve(helpers.make_problem(engine="matrix")).interpolate(0.5)


def test_an_interpolation_without_the_entropys_shrinkage():
    """Of a cloud with its own translate it is the translation, whatever epsilon is."""
    x = jr.normal(jr.key(0), (9, 2))
    _, solutions = otjax.sinkhorn_divergence(x, x + 1.0, epsilon=1.0, has_aux=True)
    debiased, _ = solutions.xy.interpolate(1.0, itself=solutions.xx)
    np.testing.assert_allclose(debiased, x + 1.0, atol=1e-6)
    assert np.max(np.abs(solutions.xy.interpolate(1.0)[0] - (x + 1.0))) > 0.1


def test_maps_are_one_map():
    """The entropic map, the gradient of the potential and that of a convex function; at the points
    the barycentric projection."""
    found = solution(epsilon=0.2)
    new = helpers.points(5)[0]
    image = found.transport(new)
    by_potential = otjax.gradient_map(lambda point: found.potential(point[None])[0], new)
    np.testing.assert_allclose(by_potential, image, rtol=1e-8)
    convex = found.convex_map()
    np.testing.assert_allclose(convex(new), image, rtol=1e-8)
    slope = jax.vmap(jax.grad(lambda point: convex.potential(point[None])[0]))(new)
    np.testing.assert_allclose(slope, image, rtol=1e-8)
    ends = convex.potential(new[:-1]), convex.potential(new[1:])
    assert np.all(convex.potential(0.5 * (new[:-1] + new[1:])) <= 0.5 * (ends[0] + ends[1]) + 1e-12)
    x, _ = helpers.points()
    alive = np.asarray(found.prepared.a) > 0
    np.testing.assert_allclose(found.barycentric()[alive], found.transport(x)[alive], rtol=1e-6)


def test_cells_of_the_exact_potentials_are_the_optimal_map():
    x, y = jr.normal(jr.key(0), (7, 2)), jr.normal(jr.key(1), (7, 2)) + 2.0
    cost = jnp.sum(jnp.square(x[:, None] - y[None]), axis=2)
    matched = otjax.assignment(cost)
    # A tree of pairs is tight; a potential of no more than the assignment's lets these alone be.
    f, g = otjax.solve_exact(otjax.PointCloud(x, y), gap=1e-9).potentials
    cells, transform = otjax.nearest(x, y, g)
    np.testing.assert_array_equal(cells, matched.columns)
    np.testing.assert_allclose(transform, f, atol=1e-7)
    hard = otjax.ConvexMap(y, g)
    np.testing.assert_array_equal(hard(x), y[matched.columns])
    sharp = otjax.solve(otjax.EntropicProblem(otjax.PointCloud(x, y), epsilon=1e-3))
    np.testing.assert_array_equal(sharp.nearest(x), matched.columns)
    np.testing.assert_allclose(
        hard.potential(x), 0.5 * (jnp.sum(jnp.square(x), axis=1) - f), atol=1e-7
    )
    absent = g.at[matched.columns[0]].set(-jnp.inf)
    assert otjax.nearest(x, y, absent)[0][0] != matched.columns[0]


@pytest.mark.parametrize(
    ("n", "m", "d", "cost"),
    [
        (5, 7, 2, "SqEuclidean"),
        (300, 1000, 3, "SqEuclidean"),  # groups of 41 columns, the last of them not whole
        (150, 9001, 40, "SqEuclidean"),  # in blocks of 64 rows, with 22 left over
        (40, 513, 3, "lopsided"),
    ],
)
def test_the_nearest_of_many_is_the_least_of_all(n, m, d, cost):
    x, y = jr.normal(jr.key(0), (n, d)), jr.normal(jr.key(1), (m, d))
    y = y.at[1::7].set(y[0])  # a site that stands several times
    g = jr.normal(jr.key(2), (m,)).at[::5].set(-jnp.inf)
    costs = {
        "SqEuclidean": otjax.SqEuclidean(),
        "lopsided": lambda x, y: jnp.sum(jnp.abs(x - 2 * y)) + x[0],
    }
    cells, transform = otjax.nearest(x, y, g, cost=costs[cost])
    scores = jax.vmap(lambda x: jax.vmap(lambda y: costs[cost](x, y))(y))(x) - g[None, :]
    np.testing.assert_allclose(transform, scores.min(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(scores[jnp.arange(n), cells], transform, rtol=1e-12, atol=1e-12)
    assert np.all(np.asarray(cells) % 5 != 0)


def test_what_does_not_fit_is_named(unchecked):
    found = solution()
    for k in (0, 2.0, True):
        with pytest.raises(ValueError, match="`k`"):
            found.sample(jr.key(0), k)
    x, y = helpers.points()
    with pytest.raises(ValueError, match="`g`"):
        otjax.nearest(x, y, jnp.zeros(2))
    with pytest.raises(ValueError, match="`x` and `y`"):
        otjax.nearest(x[:, :1], y, jnp.zeros(len(y)))
    with pytest.raises(ValueError, match="SqEuclidean"):
        problem = otjax.EntropicProblem(otjax.PointCloud(x, y, cost=otjax.Euclidean()), epsilon=0.3)
        otjax.solve(problem).convex_map()
    with pytest.raises(ValueError, match="`potential`"):
        otjax.gradient_map(3.0, x)
