"""Transport between Gaussians: closed forms against POT and against solves on fine grids."""

import functools as ft

import equinox as eqx
import jax
import jax.export
import jax.numpy as jnp
import jax.scipy.linalg
import jaxtyping
import numpy as np
import ot
import pytest
from checks import check_derivatives
from helpers import central_difference

import otjax
from otjax import RESULTS


D = 3


def covariance(seed, *, d=D, rank=None, dtype=jnp.float64):
    """A covariance of some rank, with a condition number of about a hundred otherwise."""
    root = np.random.default_rng(seed).normal(size=(d, rank or d))
    cov = root @ root.T / d + (0 if rank else 0.05) * np.eye(d)
    return jnp.asarray(cov, dtype)


def mean(seed, *, d=D, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed + 100).normal(size=d), dtype)


def symmetric(seed, *, size=1.0):
    matrix = np.random.default_rng(seed + 200).normal(size=(D, D))
    return jnp.asarray(size * (matrix + matrix.T) / 2)


def gaussians(dtype=jnp.float64):
    return mean(1, dtype=dtype), covariance(1, dtype=dtype), mean(2, dtype=dtype), covariance(
        2, dtype=dtype
    )  # fmt: skip


def test_distances_maps_and_geodesics_are_those_of_pot():
    arrays = gaussians()
    ma, ca, mb, cb = (np.asarray(array) for array in arrays)
    best = ot.gaussian.bures_wasserstein_distance(ma, mb, ca, cb)
    np.testing.assert_allclose(otjax.bures_wasserstein(*arrays), best, rtol=1e-12)
    np.testing.assert_allclose(otjax.squared_bures_wasserstein(*arrays), best**2, rtol=1e-12)
    matrix, offset = ot.gaussian.bures_wasserstein_mapping(ma, mb, ca, cb)
    points = np.random.default_rng(0).normal(size=(5, D))
    images = otjax.gaussian_map(*arrays)(points)
    np.testing.assert_allclose(images, points @ matrix + offset, atol=1e-12)
    # A geodesic: its points divide the distance, and its ends are the two.
    for t in (0.0, 0.3, 1.0):
        between = otjax.gaussian_geodesic(*arrays, t)
        np.testing.assert_allclose(
            otjax.bures_wasserstein(*arrays[:2], *between), t * best, atol=1e-12
        )
        np.testing.assert_allclose(
            otjax.bures_wasserstein(*between, *arrays[2:]), (1 - t) * best, atol=1e-12
        )


def test_near_and_singular_gaussians_have_right_distances():
    zero = jnp.zeros(D)
    cov = covariance(3)
    # The distance of N(0, C) and N(0, (1 + h)^2 C) is h times the root of the trace.
    for h in (1e-3, 1e-6, 1e-9):
        distance = otjax.bures_wasserstein(zero, cov, zero, (1 + h) ** 2 * cov)
        np.testing.assert_allclose(distance, h * jnp.sqrt(jnp.trace(cov)), rtol=1e-4, atol=1e-15)
    line, plane = covariance(4, rank=1), covariance(5, rank=2)
    for a, b in ((line, plane), (plane, cov), (0 * cov, plane), (line, line)):
        products = np.linalg.eigvals(np.asarray(a) @ np.asarray(b)).real
        exact = np.trace(a) + np.trace(b) - 2 * np.sum(np.sqrt(np.maximum(products, 0)))
        squared = otjax.squared_bures_wasserstein(zero, a, zero, b)
        np.testing.assert_allclose(squared, exact, atol=1e-7)
        midway = otjax.gaussian_geodesic(zero, a, zero, b, 0.5)
        half = otjax.squared_bures_wasserstein(zero, a, *midway)
        # By a singular covariance the derivative is infinite: rounding of 1e-16 counts 1e-8.
        np.testing.assert_allclose(half, squared / 4, rtol=1e-6, atol=1e-14)
    # The map onto a plane, and from one: the part that is known.
    np.testing.assert_allclose(_pushed(cov, plane), plane, atol=1e-12)
    np.testing.assert_allclose(_pushed(plane, 2 * plane), 2 * plane, atol=1e-12)


def _pushed(a, b):
    zero = jnp.zeros(D)
    matrix = otjax.gaussian_map(zero, a, zero, b).matrix
    return matrix @ a @ matrix.T


SPECTRA = {
    "generic": (covariance(1), covariance(2)),
    "equal": (covariance(1), covariance(1)),
    "one": (jnp.eye(D), jnp.eye(D)),
    "coincident": (jnp.diag(jnp.array([1.0, 1.0, 2.0])), jnp.diag(jnp.array([3.0, 2.0, 2.0]))),
    "to a plane": (covariance(1), covariance(5, rank=2)),
}


def squared(v):
    return otjax.squared_bures_wasserstein(*v)


@pytest.mark.parametrize("name", SPECTRA)
def test_derivatives_are_those_of_differences(name):
    a, b = SPECTRA[name]
    by_b = 0.0 if name == "to a plane" else 1.0
    first, second = (
        (0.1 * mean(k), symmetric(k, size=0.05), mean(k), by_b * symmetric(k + 1, size=0.05))
        for k in (3, 5)
    )
    point = mean(4), a, mean(5), b
    # The second time the same programs are there.
    check_derivatives(squared, point, first, second, step=1e-3, twice=name == "coincident")
    if name == "one":
        assert jnp.all(jnp.isfinite(jax.hessian(lambda a: squared((mean(4), a, mean(5), b)))(a)))


def test_derivatives_of_the_map_and_of_the_distance():
    a, b = SPECTRA["coincident"]
    point = (mean(1), a, mean(2), b, jnp.asarray(0.3))
    first, second = (
        (0.1 * mean(k), symmetric(k, size=0.05), 0.1 * mean(k + 1), symmetric(k + 1, size=0.05))
        + (jnp.asarray(0.1),)
        for k in (7, 9)
    )
    weights = symmetric(11)

    def function(v):
        _, cov = otjax.gaussian_geodesic(*v)
        matrix = otjax.gaussian_map(*v[:4]).matrix
        return otjax.bures_wasserstein(*v[:4]) + jnp.sum((cov + jnp.sin(matrix)) * weights)

    check_derivatives(function, point, first, second, step=1e-3, twice=True)
    same = jax.grad(otjax.bures_wasserstein, (0, 1, 2, 3))(*point[:2], *point[:2])
    assert all(jnp.all(part == 0) for part in same)


def test_a_low_rank_factor_can_be_learnt():
    # The covariance of fewer samples than dimensions: no derivative is infinite, nor left out.
    root = jnp.asarray(np.random.default_rng(6).normal(size=(D, 2)))
    move = 0.1 * jnp.asarray(np.random.default_rng(7).normal(size=(D, 2)))
    zero, cov = jnp.zeros(D), covariance(1)
    distance = lambda r: otjax.squared_bures_wasserstein(zero, cov, zero, r @ r.T)
    slope = jnp.sum(jax.grad(distance)(root) * move)
    np.testing.assert_allclose(
        slope, central_difference(jax.jit(distance), root, move, step=1e-3), rtol=1e-7
    )
    # The entropic value is smooth across ranks: its second derivatives are finite.
    solve = ft.partial(otjax.solve_gaussian, epsilon=0.2, throw=False)
    check_derivatives(lambda r: solve(zero, cov, zero, r @ r.T).value, root, move, move, step=1e-3)


def grid(mean, cov, n):
    """Points and masses that stand for a Gaussian, to more digits than needed."""
    d = mean.shape[0]
    axes = np.meshgrid(*[np.linspace(-8, 8, n)] * d, indexing="ij")
    standard = np.stack(axes, axis=-1).reshape(-1, d)
    masses = np.exp(-0.5 * np.sum(standard**2, axis=1))
    points = np.asarray(mean) + standard @ np.linalg.cholesky(cov).T
    return jnp.asarray(points), jnp.asarray(masses / masses.sum())


@pytest.mark.parametrize(
    "marginals, masses", [(otjax.Balanced(), (2.0, 2.0)), (otjax.Unbalanced(0.7), (1.3, 0.6))]
)
def test_entropic_transport_is_that_of_a_fine_grid(marginals, masses):
    ma, mb = mean(1, d=2), mean(2, d=2)
    ca, cb = 0.5 * covariance(1, d=2), covariance(2, d=2)
    (x, a), (y, b) = grid(ma, ca, 28), grid(mb, cb, 28)
    problem = otjax.EntropicProblem(
        otjax.PointCloud(x, y), masses[0] * a, masses[1] * b, epsilon=1.5, marginals=marginals
    )
    solved = otjax.solve(problem, tolerance=1e-12)
    closed = otjax.solve_gaussian(ma, ca, mb, cb, epsilon=1.5, masses=masses, marginals=marginals)
    np.testing.assert_allclose(closed.value, solved.value, rtol=1e-8)
    np.testing.assert_allclose(closed.value_linear, solved.value_linear, rtol=1e-5)
    plan = np.asarray(solved.plan.as_matrix())
    u, v = np.asarray(x), np.asarray(y)
    mass = plan.sum()
    np.testing.assert_allclose(closed.mass, mass, rtol=1e-6)
    mean_u, mean_v = plan.sum(axis=1) @ u / mass, plan.sum(axis=0) @ v / mass
    np.testing.assert_allclose(closed.means, (mean_u, mean_v), atol=1e-6)
    u, v = u - mean_u, v - mean_v
    moments = (
        u.T @ (plan.sum(axis=1)[:, None] * u) / mass,
        v.T @ (plan.sum(axis=0)[:, None] * v) / mass,
        u.T @ plan @ v / mass,
    )
    for ours, theirs in zip((*closed.covs, closed.cross_cov), moments, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(closed.covs[0] @ closed.matrix.T, closed.cross_cov, atol=1e-12)
    center = jnp.asarray(mean_u)[None]
    np.testing.assert_allclose(closed.transport(center)[0], mean_v, atol=1e-6)


def test_entropic_values_in_one_dimension_and_at_the_limits():
    # In one dimension the plan has one unknown, its covariance c: minimise by hand.
    a, b, epsilon = 0.7, 2.1, 0.4
    arrays = [jnp.array([v]) for v in (0.0, 1.0)]
    covs = [jnp.array([[v]]) for v in (a, b)]
    entropic = otjax.solve_gaussian(arrays[0], covs[0], arrays[1], covs[1], epsilon=epsilon)
    c = np.linspace(0, np.sqrt(a * b), 2_000_001)[:-1]
    objective = 1 + a + b - 2 * c - epsilon / 2 * np.log1p(-(c**2) / (a * b))
    np.testing.assert_allclose(entropic.value, objective.min(), rtol=1e-10)
    np.testing.assert_allclose(entropic.cross_cov, c[objective.argmin()], atol=2e-6)
    args = gaussians()
    squared = otjax.squared_bures_wasserstein(*args)
    value = lambda epsilon, **options: otjax.solve_gaussian(*args, epsilon=epsilon, **options)
    np.testing.assert_allclose(value(1e-9).value, squared, rtol=1e-6)
    matrix = otjax.gaussian_map(*args).matrix
    np.testing.assert_allclose(value(1e-9).matrix, matrix, rtol=1e-5, atol=1e-6)
    # The more mass costs, the nearer to the balanced problem.
    balanced, strict = value(0.5), value(0.5, marginals=otjax.Unbalanced(1e8))
    np.testing.assert_allclose(strict.value, balanced.value, rtol=1e-6)
    np.testing.assert_allclose(strict.cross_cov, balanced.cross_cov, rtol=1e-5)


@pytest.mark.parametrize("rho", [None, 0.8])
def test_derivatives_of_entropic_transport(rho):
    def function(v):
        root, mean_a, mean_b, cov_b, epsilon, mass, rho_ = v
        solution = otjax.solve_gaussian(
            mean_a,
            root @ root.T,  # singular: of rank 2 in three dimensions
            mean_b,
            cov_b,
            epsilon=epsilon,
            masses=(mass, mass if rho is None else 0.7),
            marginals=otjax.Balanced() if rho is None else otjax.Unbalanced(rho_),
            throw=False,
        )
        return solution.value + 0.3 * jnp.sum(jnp.sin(solution.cross_cov))

    numbers = lambda *values: tuple(jnp.asarray(value) for value in values)
    move = lambda k: (
        0.05 * mean(k, d=6).reshape(D, 2),
        0.1 * mean(k + 1),
        0.1 * mean(k + 2),
        symmetric(k, size=0.05),
        *numbers(0.05, 0.1, 0.1),
    )
    point = mean(9, d=6).reshape(D, 2), mean(1), mean(2), jnp.eye(D), *numbers(0.6, 1.2, rho or 1.0)
    check_derivatives(function, point, move(3), move(6), step=1e-3, rtol=3e-6)


def several():
    covs = jnp.stack([covariance(k) for k in range(3)])
    return jnp.stack([mean(k) for k in range(3)]), covs, jnp.array([0.2, 0.5, 0.3])


def test_barycenters_are_those_of_pot_and_differentiable():
    means, covs, weights = several()
    found = otjax.gaussian_barycenter(means, covs, weights)
    reference = ot.gaussian.bures_wasserstein_barycenter(
        *(np.asarray(v) for v in (means, covs, weights)), eps=1e-14, num_iter=300
    )
    np.testing.assert_allclose(found.mean, reference[0], atol=1e-12)
    np.testing.assert_allclose(found.cov, reference[1], atol=1e-9)
    assert found.error <= 1e-11 and found.num_steps > 3
    # A Gaussian of weight zero does not exist; weights are relative.
    more = jnp.concatenate([covs, jnp.full((1, D, D), jnp.nan)])
    padded = otjax.gaussian_barycenter(
        jnp.concatenate([means, means[:1]]), more, 3 * jnp.pad(weights, (0, 1))
    )
    np.testing.assert_allclose(padded.cov, found.cov, atol=1e-11)
    short = otjax.gaussian_barycenter(means, covs, weights, max_steps=2, throw=False)
    assert short.result == RESULTS.max_steps_reached and short.num_steps == 2
    loose = otjax.gaussian_barycenter(means, covs, weights, tolerance=1e-2)
    assert loose.num_steps < found.num_steps
    with pytest.raises(Exception, match="max_steps"):
        otjax.gaussian_barycenter(means, covs, weights, max_steps=2)

    look = symmetric(1)
    solve = ft.partial(otjax.gaussian_barycenter, means, tolerance=1e-13, throw=False)
    move = lambda k: (
        jnp.stack([symmetric(k + j, size=0.05) for j in range(3)]),
        0.1 * jnp.array([0.1, -0.3, 0.2]),
    )
    function = lambda v: jnp.sum(solve(*v).cov * look)
    check_derivatives(function, (covs, weights), move(2), move(6), step=1e-3, rtol=3e-6)


def test_singular_barycenters():
    plane = covariance(5, rank=2)
    found = otjax.gaussian_barycenter(jnp.zeros((2, D)), jnp.stack([plane, 4 * plane]))
    np.testing.assert_allclose(found.cov, 2.25 * plane, atol=1e-10)


def test_mixtures_are_those_of_pot():
    means, covs, weights = several()
    other = means[1:] + 0.5, covs[:2], jnp.array([0.6, 0.4])
    args = weights, means, covs, other[2], *other[:2]
    w_a, m_a, c_a, w_b, m_b, c_b = (np.asarray(v) for v in args)
    best = ot.gmm.gmm_ot_loss(m_a, m_b, c_a, c_b, w_a, w_b)
    distance, solution = otjax.mixture_wasserstein(*args, gap=1e-9, has_aux=True)
    np.testing.assert_allclose(distance**2, best, rtol=1e-8)
    assert solution.result == RESULTS.successful and solution.gap <= 1e-9
    np.testing.assert_allclose(
        solution.plan.as_matrix(), ot.gmm.gmm_ot_plan(m_a, m_b, c_a, c_b, w_a, w_b), atol=1e-7
    )
    # Between single Gaussians it is their distance; a component of weight zero does not exist.
    one = jnp.array([1.0, 0.0, 0.0])
    single = one, means.at[1].set(jnp.inf), covs.at[2].set(jnp.nan), one[:2], *other[:2]
    np.testing.assert_allclose(
        otjax.mixture_wasserstein(*single, gap=1e-9),
        otjax.bures_wasserstein(means[0], covs[0], other[0][0], other[1][0]),
        rtol=1e-8,
    )
    move = jnp.stack([symmetric(k, size=0.05) for k in range(3)])
    along = lambda t: otjax.mixture_wasserstein(
        weights, means + t, covs + t * move, *args[3:], gap=1e-9
    )
    slope = jax.jit(jax.grad(along))(jnp.zeros(()))
    np.testing.assert_allclose(
        slope, central_difference(along, jnp.zeros(()), jnp.ones(()), step=1e-3), rtol=1e-6
    )
    invalid = otjax.mixture_wasserstein(-weights, *args[1:], gap=1e-9)
    assert jnp.isnan(invalid)
    assert jnp.isnan(otjax.mixture_wasserstein(weights, means, -covs, *args[3:], gap=1e-9))


WRONG = {
    "not symmetric": lambda m, c: (m, c.at[0, 1].add(0.1)),
    "negative eigenvalue": lambda m, c: (m, c - 1.1 * jnp.eye(D) * jnp.linalg.eigvalsh(c)[0]),
    "NaN": lambda m, c: (m, c.at[1, 1].set(jnp.nan)),
    "infinite mean": lambda m, c: (m.at[0].set(jnp.inf), c),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers_are_named_or_nan_with_gradient_zero(name):
    ma, ca, mb, cb = gaussians()
    for args in ((*WRONG[name](ma, ca), mb, cb), (ma, ca, *WRONG[name](mb, cb))):
        value, gradients = jax.value_and_grad(otjax.bures_wasserstein, (0, 1, 2, 3))(*args)
        assert jnp.isnan(value)
        assert all(jnp.all(gradient == 0) for gradient in gradients)
    expected = (
        RESULTS.nonfinite_input if name in ("NaN", "infinite mean") else RESULTS.invalid_covariance
    )
    solution = otjax.solve_gaussian(*args, epsilon=0.5, throw=False)
    assert solution.result == expected and jnp.isfinite(solution.value)
    stacked = (jnp.stack(pair) for pair in (args[::2], args[1::2]))
    found = otjax.gaussian_barycenter(*stacked, throw=False)
    assert found.result == expected and jnp.all(jnp.isfinite(found.cov))
    assert jnp.all(jnp.isnan(otjax.gaussian_map(*args).matrix))
    assert jnp.all(jnp.isnan(otjax.gaussian_geodesic(*args, 0.5)[1]))


def test_other_wrong_numbers_have_names():
    args = gaussians()
    solve = ft.partial(otjax.solve_gaussian, *args, throw=False)
    unbalanced = otjax.Unbalanced(-1.0)
    assert solve(epsilon=-0.5).result == RESULTS.invalid_epsilon
    assert solve(epsilon=0.5, marginals=unbalanced).result == RESULTS.invalid_rho
    assert solve(epsilon=0.5, masses=(1.0, 2.0)).result == RESULTS.unequal_mass
    assert solve(epsilon=0.5, masses=(1.0, 0.0)).result == RESULTS.invalid_mass
    with pytest.raises(Exception, match="epsilon"):
        otjax.solve_gaussian(*args, epsilon=-0.5)
    means, covs, weights = several()
    found = otjax.gaussian_barycenter(means, covs, -weights, throw=False)
    assert found.result == RESULTS.invalid_mass


def test_wrong_structure_is_an_error():
    ma, ca, mb, cb = gaussians()
    means, covs, weights = several()
    single = ft.partial(jnp.asarray, dtype=jnp.float32)
    wrong = {
        "cov_a": lambda: otjax.bures_wasserstein(ma, ca[:2], mb, cb),
        "mean_b": lambda: otjax.bures_wasserstein(ma, ca, mb[None], cb),
        "space": lambda: otjax.bures_wasserstein(ma, ca, mb[:2], cb[:2, :2]),
        "dtype": lambda: otjax.bures_wasserstein(single(ma), single(ca), mb, cb),
        "floating": lambda: otjax.gaussian_map(jnp.arange(3), ca, mb, cb),
        "`t`": lambda: otjax.gaussian_geodesic(ma, ca, mb, cb, ma),
        "epsilon": lambda: otjax.solve_gaussian(ma, ca, mb, cb, epsilon=ma),
        "masses": lambda: otjax.solve_gaussian(ma, ca, mb, cb, epsilon=1.0, masses=1.0),
        "marginals": lambda: otjax.solve_gaussian(ma, ca, mb, cb, epsilon=1.0, marginals=3),
        "weights": lambda: otjax.gaussian_barycenter(means, covs, weights[:2]),
        "covs": lambda: otjax.gaussian_barycenter(means, covs[:2]),
        "weights_b": lambda: otjax.mixture_wasserstein(
            weights, means, covs, weights[:2], means, covs
        ),
        "tolerance": lambda: otjax.gaussian_barycenter(means, covs, tolerance=-1.0),
    }
    for match, call in wrong.items():
        with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=match):
            call()


def test_single_precision_one_trace_and_batches():
    args = gaussians(jnp.float32)

    @jax.jit
    @eqx.debug.assert_max_traces(max_traces=1)
    def step(cov):
        return jax.value_and_grad(otjax.bures_wasserstein, 1)(args[0], cov, *args[2:])

    for k in range(3):
        value, gradient = step(args[1] * (1 + k))
        assert value.dtype == gradient.dtype == jnp.float32
    exact = otjax.bures_wasserstein(*(arg.astype(jnp.float64) for arg in args))
    np.testing.assert_allclose(otjax.bures_wasserstein(*args), exact, rtol=1e-5)
    entropic = otjax.solve_gaussian(*args, epsilon=0.5)
    assert entropic.value.dtype == jnp.float32
    together = jax.vmap(lambda m: otjax.bures_wasserstein(m, *args[1:]))(
        jnp.stack([args[0], args[2]])
    )
    np.testing.assert_allclose(together[0], exact, rtol=1e-5)


def test_nothing_that_gpus_lack():
    def exported(function, *args):
        return jax.export.export(jax.jit(function), platforms=["cuda"])(*args).mlir_module()

    means, covs, weights = several()
    barycenter = lambda c: otjax.gaussian_barycenter(means, c, weights, throw=False).cov
    assert exported(jax.hessian(otjax.squared_bures_wasserstein, (1, 3)), *gaussians())
    assert exported(jax.grad(lambda c: jnp.sum(barycenter(c))), covs)
    # JAX's own root of a matrix is one that fails.
    with pytest.raises(Exception, match="cuda|schur"):
        exported(jax.scipy.linalg.sqrtm, covs[0])
