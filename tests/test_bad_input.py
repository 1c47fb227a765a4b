"""What is wrong with the input decides: an error, or a result beside finite numbers."""

import functools as ft

import equinox as eqx
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ENGINES, MARGINALS

import otjax
from otjax import RESULTS


NAN, INF = jnp.nan, jnp.inf


def valid_inputs(dtype=jnp.float64):
    x, y = helpers.points(dtype=dtype)
    a, b = helpers.masses(dtype=dtype)
    number = ft.partial(jnp.asarray, dtype=dtype)
    return {"x": x, "y": y, "a": a, "b": b, "epsilon": number(0.3), "rho": number(0.7)}


def entry(name, value):
    """The valid inputs, but for one entry of one array."""

    def spoil(inputs):
        return inputs | {name: inputs[name].at[(1,) * inputs[name].ndim].set(value)}

    return spoil


def scaled(name, factor):
    return lambda inputs: inputs | {name: inputs[name] * jnp.asarray(factor, inputs[name].dtype)}


# What is wrong -> how to make it so, the result, and a word of the message that leads to it.
WRONG_VALUES = {
    "NaN in x": (entry("x", NAN), RESULTS.nonfinite_input, "points"),
    "NaN in y": (entry("y", NAN), RESULTS.nonfinite_input, "points"),
    "inf in x": (entry("x", INF), RESULTS.nonfinite_input, "points"),
    "-inf in y": (entry("y", -INF), RESULTS.nonfinite_input, "points"),
    "NaN in a": (entry("a", NAN), RESULTS.invalid_mass, "`a`"),
    "inf in b": (entry("b", INF), RESULTS.invalid_mass, "`b`"),
    "negative a": (entry("a", -0.1), RESULTS.invalid_mass, "`a`"),
    "negative b": (entry("b", -0.1), RESULTS.invalid_mass, "`b`"),
    "zero total of a": (scaled("a", 0), RESULTS.invalid_mass, "`a`"),
    "zero total of b": (scaled("b", 0), RESULTS.invalid_mass, "`b`"),
    "epsilon 0": (scaled("epsilon", 0), RESULTS.invalid_epsilon, "`epsilon`"),
    "epsilon negative": (scaled("epsilon", -1), RESULTS.invalid_epsilon, "`epsilon`"),
    "epsilon NaN": (scaled("epsilon", NAN), RESULTS.invalid_epsilon, "`epsilon`"),
    "epsilon inf": (scaled("epsilon", INF), RESULTS.invalid_epsilon, "`epsilon`"),
}
UNEQUAL = {"unequal totals": (scaled("a", 1.01), RESULTS.unequal_mass, "`a`")}
WRONG_RHO = {
    "rho 0": (scaled("rho", 0), RESULTS.invalid_rho, "`rho`"),
    "rho negative": (scaled("rho", -1), RESULTS.invalid_rho, "`rho`"),
    "rho NaN": (scaled("rho", NAN), RESULTS.invalid_rho, "`rho`"),
}
CASES = {
    "balanced": WRONG_VALUES | UNEQUAL,
    "unbalanced": WRONG_VALUES | WRONG_RHO,
    "unbalanced second": WRONG_VALUES | WRONG_RHO,
}


def make_problem(inputs, engine, marginals, cost=None):
    cost = otjax.SqEuclidean() if cost is None else cost
    return otjax.EntropicProblem(
        ENGINES[engine](inputs["x"], inputs["y"], cost),
        inputs["a"],
        inputs["b"],
        epsilon=inputs["epsilon"],
        marginals=MARGINALS[marginals](inputs["rho"]),
    )


def everything(solution, new=None):
    outputs = {
        "value": solution.value,
        "value_linear": solution.value_linear,
        "potentials": solution.potentials,
        "plan": solution.plan.as_matrix(),
        "marginals": solution.marginals,
        "marginal_error": solution.stats.marginal_error,
    }
    return outputs if new is None else outputs | {"transport": solution.transport(new)}


def assert_finite(tree, message=""):
    for path, leaf in jax.tree.leaves_with_path(tree):
        assert bool(jnp.all(jnp.isfinite(leaf))), f"{message}: {jax.tree_util.keystr(path)}"


@pytest.mark.parametrize(
    "engine, marginals, cost",
    [
        ("dense", "balanced", None),
        ("matrix", "unbalanced second", None),
        pytest.param("streamed", "unbalanced", None, marks=pytest.mark.slow),
        ("streamed", "balanced", helpers.callable_cost),
    ],
)
def test_wrong_values_give_a_result_and_finite_numbers(engine, marginals, cost):
    @jax.jit
    def solve(inputs):
        def value(inputs):
            solution = otjax.solve(make_problem(inputs, engine, marginals, cost), throw=False)
            new = None if engine == "matrix" else helpers.points(1, n=4)[0]
            return solution.value, (solution.result, everything(solution, new))

        gradient, (result, outputs) = jax.grad(value, has_aux=True)(inputs)
        if engine == "matrix":
            # Costs come from the points outside of the library.
            del gradient["x"], gradient["y"]
        return result, outputs, gradient

    result, *numbers = solve(valid_inputs())
    assert result == RESULTS.successful
    assert_finite(numbers, "valid inputs")
    for name, (spoil, expected, _) in CASES[marginals].items():
        if engine == "matrix" and "inf in" in name:
            continue  # infinite costs have a meaning
        result, *numbers = solve(spoil(valid_inputs()))
        assert result == expected, f"{name}: {RESULTS[result]}"
        assert_finite(numbers, name)


@pytest.mark.parametrize(
    "marginals, transform", [("balanced", jax.jit), ("unbalanced", eqx.filter_jit)]
)
def test_wrong_values_raise_by_default(marginals, transform):
    def solve(inputs):
        return otjax.solve(make_problem(inputs, "dense", marginals)).value

    # JAX chooses the type of what is raised under its own jit.
    error = RuntimeError if transform is eqx.filter_jit else (RuntimeError, ValueError)
    transformed = transform(solve)
    assert bool(jnp.isfinite(transformed(valid_inputs())))
    for name, (spoil, _, word) in CASES[marginals].items():
        with pytest.raises(error) as raised:
            jax.block_until_ready(transformed(spoil(valid_inputs())))
        assert word in str(raised.value), name


def test_failure_to_converge_raises_by_default():
    problem = make_problem(valid_inputs(), "dense", "balanced")
    with pytest.raises(RuntimeError, match="`max_steps`"):
        otjax.solve(problem, max_steps=2)


@jax.jit
def solve_matrix(matrix):
    def value(matrix):
        problem = otjax.EntropicProblem(otjax.CostMatrix(matrix), epsilon=0.1)
        solution = otjax.solve(problem, throw=False)
        return solution.value, (solution.result, everything(solution))

    gradient, (result, outputs) = jax.grad(value, has_aux=True)(matrix)
    return result, outputs, gradient


def test_infinite_costs_forbid_pairs():
    matrix = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 3)))
    for spoil, expected in (
        (lambda c: c.at[2, 1].set(NAN), RESULTS.nonfinite_input),
        (lambda c: c.at[2, 1].set(-INF), RESULTS.nonfinite_input),
        (lambda c: c.at[2, 1].set(INF), RESULTS.successful),
        (lambda c: c.at[:2, 0].set(INF), RESULTS.successful),
    ):
        result, outputs, gradient = solve_matrix(spoil(matrix))
        assert result == expected
        assert_finite((outputs, gradient))
        if expected == RESULTS.successful:
            forbidden = jnp.isinf(spoil(matrix))
            assert bool(jnp.all(outputs["plan"][forbidden] == 0))
            np.testing.assert_allclose(gradient, outputs["plan"], atol=1e-12)
    # A point that may go nowhere.
    result, outputs, gradient = solve_matrix(matrix.at[1].set(INF))
    assert result != RESULTS.successful
    assert_finite((outputs, gradient))


@pytest.mark.parametrize("engine", ["dense", "streamed"])
def test_callable_cost_that_returns_nan_is_reported(engine):
    def cost(x, y):
        return jnp.sqrt(x[0]) + jnp.sum(jnp.square(x - y))  # x has negative coordinates

    @jax.jit
    def solve(x, y):
        problem = otjax.EntropicProblem(ENGINES[engine](x, y, cost), epsilon=0.3)
        solution = otjax.solve(problem, throw=False)
        return solution.result, everything(solution)

    result, outputs = solve(*helpers.points())
    assert result == RESULTS.nonfinite_input
    assert_finite(outputs)


def test_totals_may_differ_by_rounding_only():
    inputs = valid_inputs()
    for factor, expected in ((1 + 1e-9, RESULTS.successful), (1 + 1e-3, RESULTS.unequal_mass)):
        problem = make_problem(scaled("a", factor)(inputs), "dense", "balanced")
        assert otjax.solve(problem, throw=False).result == expected


@pytest.mark.parametrize(
    "shape, marginals, dtype",
    [
        ((helpers.N, helpers.M), "balanced", jnp.float32),
        ((helpers.N, helpers.M), "balanced", jnp.float64),
        ((helpers.N, helpers.M), "unbalanced", jnp.float32),
        ((1, helpers.M), "unbalanced second", jnp.float64),
        ((1, 1), "balanced", jnp.float32),
    ],
)
def test_success_means_a_plan_with_the_marginals_asked_for(shape, marginals, dtype):
    @jax.jit
    def solve(x, y, a, b, epsilon):
        inputs = {"x": x, "y": y, "a": a, "b": b, "epsilon": epsilon, "rho": jnp.ones_like(epsilon)}

        def value(inputs):
            solution = otjax.solve(make_problem(inputs, "dense", marginals), throw=False)
            return solution.value, (solution.result, everything(solution))

        gradient, (result, outputs) = jax.grad(value, has_aux=True)(inputs)
        return result, outputs, gradient

    n, m = shape
    x, y = helpers.points(n=n, m=m, dtype=dtype)
    duplicates = x.at[n // 2 :].set(x[0]), y.at[0].set(x[0])
    a, b = helpers.masses(n=n, m=m, dtype=dtype)
    solved = 0
    for exponent in range(-8, 9, 2):
        for cloud in ((x, y), duplicates):
            epsilon = jnp.asarray(10.0**exponent, dtype)
            result, outputs, gradient = solve(*cloud, a, b, epsilon)
            message = f"epsilon 1e{exponent}, {RESULTS[result]}"
            assert_finite((outputs, gradient), message)
            solved += int(result == RESULTS.successful)
            if result == RESULTS.successful and marginals == "balanced":
                plan = np.asarray(outputs["plan"], np.float64)
                error = sum(
                    np.abs(plan.sum(axis) - np.asarray(mass, np.float64)).sum()
                    for axis, mass in ((1, a), (0, b))
                )
                assert error < 1e-2, message
    assert solved >= 12


X, Y = np.ones((5, 2)), np.zeros((4, 2))
CLOUD = otjax.PointCloud(X, Y)
PROBLEM = otjax.EntropicProblem(CLOUD, epsilon=0.1)

# A call that cannot mean anything, and the argument that its error must name.
WRONG_STRUCTURE = {
    "x of one axis": (lambda: otjax.PointCloud(X[:, 0], Y), "`x`"),
    "y of three axes": (lambda: otjax.PointCloud(X, Y[None]), "`y`"),
    "different dimensions": (lambda: otjax.PointCloud(X, Y[:, :1]), "`y`"),
    "different dtypes": (lambda: otjax.PointCloud(X, Y.astype(np.float32)), "`y`"),
    "empty x": (lambda: otjax.PointCloud(X[:0], Y), "`x`"),
    "empty y": (lambda: otjax.PointCloud(X, Y[:0]), "`y`"),
    "points without coordinates": (lambda: otjax.PointCloud(X[:, :0], Y[:, :0]), "`x`"),
    "integer x": (lambda: otjax.PointCloud(X.astype(int), Y), "`x`"),
    "boolean y": (lambda: otjax.PointCloud(X, Y.astype(bool)), "`y`"),
    "complex x": (lambda: otjax.PointCloud(X.astype(complex), Y), "`x`"),
    "list x": (lambda: otjax.PointCloud(X.tolist(), Y), "`x`"),
    "x None": (lambda: otjax.PointCloud(None, Y), "`x`"),
    "x a string": (lambda: otjax.PointCloud("points", Y), "`x`"),
    "cost a class": (lambda: otjax.PointCloud(X, Y, cost=otjax.SqEuclidean), "`cost`"),
    "cost a string": (lambda: otjax.PointCloud(X, Y, cost="Euclidean"), "`cost`"),
    "cost None": (lambda: otjax.PointCloud(X, Y, cost=None), "`cost`"),
    "cost not a scalar": (lambda: otjax.PointCloud(X, Y, cost=lambda x, y: x - y), "`cost`"),
    "cost an integer": (lambda: otjax.PointCloud(X, Y, cost=lambda x, y: jnp.array(1)), "`cost`"),
    "cost a tuple": (lambda: otjax.PointCloud(X, Y, cost=lambda x, y: (x[0], y[0])), "`cost`"),
    "engine a string": (lambda: otjax.PointCloud(X, Y, engine="dense"), "`engine`"),
    "engine a class": (lambda: otjax.PointCloud(X, Y, engine=otjax.Dense), "`engine`"),
    "block 0": (lambda: otjax.Streamed(0), "`block`"),
    "block a float": (lambda: otjax.Streamed(2.0), "`block`"),
    "fraction 0": (lambda: otjax.Relative(0.0), "`fraction`"),
    "tolerance beside a solver": (
        lambda: otjax.solve(PROBLEM, otjax.Sinkhorn(), tolerance=1e-3),
        "`tolerance`",
    ),
    "init of one pair": (
        lambda: otjax.sinkhorn_divergence(X, Y, init=(X[:, 0], Y[:, 0])),
        "`init`",
    ),
    "xx of another shape": (lambda: otjax.divergence(CLOUD, CLOUD, CLOUD), "`xx`"),
    "yy an array": (
        lambda: otjax.divergence(CLOUD, otjax.PointCloud(X, X), Y),
        "`yy`",
    ),
    "matrix of one axis": (lambda: otjax.CostMatrix(X[0]), "`matrix`"),
    "matrix of three axes": (lambda: otjax.CostMatrix(X[None]), "`matrix`"),
    "integer matrix": (lambda: otjax.CostMatrix(X.astype(int)), "`matrix`"),
    "empty matrix": (lambda: otjax.CostMatrix(X[:0]), "`matrix`"),
    "p less than 1": (lambda: otjax.PNorm(0.5), "`p`"),
    "p NaN": (lambda: otjax.PNorm(np.nan), "`p`"),
    "p a vector": (lambda: otjax.PNorm(np.ones(2)), "`p`"),
    "power 0": (lambda: otjax.PNorm(2.0, power=0.0), "`power`"),
    "geometry an array": (lambda: otjax.EntropicProblem(X), "`geometry`"),
    "a of another length": (lambda: otjax.EntropicProblem(CLOUD, np.ones(4)), "`a`"),
    "b of another length": (lambda: otjax.EntropicProblem(CLOUD, None, np.ones(5)), "`b`"),
    "a of two axes": (lambda: otjax.EntropicProblem(CLOUD, np.ones((5, 1))), "`a`"),
    "integer a": (lambda: otjax.EntropicProblem(CLOUD, np.ones(5, int)), "`a`"),
    "list b": (lambda: otjax.EntropicProblem(CLOUD, None, [0.25] * 4), "`b`"),
    "epsilon a vector": (lambda: otjax.EntropicProblem(CLOUD, epsilon=np.ones(2)), "`epsilon`"),
    "epsilon a string": (lambda: otjax.EntropicProblem(CLOUD, epsilon="small"), "`epsilon`"),
    "epsilon complex": (lambda: otjax.EntropicProblem(CLOUD, epsilon=1j), "`epsilon`"),
    "marginals a string": (
        lambda: otjax.EntropicProblem(CLOUD, marginals="unbalanced"),
        "`marginals`",
    ),
    "marginals a class": (
        lambda: otjax.EntropicProblem(CLOUD, marginals=otjax.Balanced),
        "`marginals`",
    ),
    "marginals of three sides": (
        lambda: otjax.EntropicProblem(CLOUD, marginals=(otjax.Balanced(),) * 3),
        "`marginals`",
    ),
    "rho a vector": (lambda: otjax.Unbalanced(np.ones(2)), "`rho`"),
    "rho a string": (lambda: otjax.Unbalanced("large"), "`rho`"),
    "rho None": (lambda: otjax.Unbalanced(None), "`rho`"),
    "problem a geometry": (lambda: otjax.solve(CLOUD), "`problem`"),
    "problem an array": (lambda: otjax.solve(X), "`problem`"),
    "solver a class": (lambda: otjax.solve(PROBLEM, otjax.Sinkhorn), "`solver`"),
    "solver a string": (lambda: otjax.solve(PROBLEM, "sinkhorn"), "`solver`"),
    "adjoint a string": (lambda: otjax.solve(PROBLEM, adjoint="implicit"), "`adjoint`"),
    "adjoint a class": (lambda: otjax.solve(PROBLEM, adjoint=otjax.ImplicitAdjoint), "`adjoint`"),
    "init one potential": (lambda: otjax.solve(PROBLEM, init=(np.ones(5),)), "`init`"),
    "init an array": (lambda: otjax.solve(PROBLEM, init=np.ones(5)), "`init`"),
    "init exchanged": (lambda: otjax.solve(PROBLEM, init=(np.ones(4), np.ones(5))), "`init`"),
    "init integer": (
        lambda: otjax.solve(PROBLEM, init=(np.ones(5, int), np.ones(4, int))),
        "`init",
    ),
    "max_steps negative": (lambda: otjax.solve(PROBLEM, max_steps=-1), "`max_steps`"),
    "max_steps not whole": (lambda: otjax.solve(PROBLEM, max_steps=2.5), "`max_steps`"),
    "max_steps a string": (lambda: otjax.solve(PROBLEM, max_steps="many"), "`max_steps`"),
    "tolerance 0": (lambda: otjax.Sinkhorn(tolerance=0.0), "`tolerance`"),
    "tolerance NaN": (lambda: otjax.Sinkhorn(tolerance=np.nan), "`tolerance`"),
    "tolerance a string": (lambda: otjax.Sinkhorn(tolerance="tight"), "`tolerance`"),
    "tolerance a vector": (lambda: otjax.Sinkhorn(tolerance=np.ones(2)), "`tolerance`"),
    "annealing a class": (lambda: otjax.Sinkhorn(annealing=otjax.NoAnnealing), "`annealing`"),
    "acceleration a class": (lambda: otjax.Sinkhorn(acceleration=otjax.Plain), "`acceleration`"),
    "acceleration a string": (lambda: otjax.Sinkhorn(acceleration="anderson"), "`acceleration`"),
    "omega 0": (lambda: otjax.Overrelaxation(0.0), "`omega`"),
    "omega 2.5": (lambda: otjax.Overrelaxation(2.5), "`omega`"),
    "memory 1": (lambda: otjax.Anderson(memory=1), "`memory`"),
    "memory not whole": (lambda: otjax.Anderson(memory=2.5), "`memory`"),
    "start 0": (lambda: otjax.GeometricAnnealing(start=0.0), "`start`"),
    "factor 1": (lambda: otjax.GeometricAnnealing(factor=1.0), "`factor`"),
    "stage_tolerance 0": (
        lambda: otjax.GeometricAnnealing(stage_tolerance=0.0),
        "`stage_tolerance`",
    ),
    "adjoint tolerance 0": (lambda: otjax.ImplicitAdjoint(tolerance=0.0), "`tolerance`"),
    "adjoint max_steps 0": (lambda: otjax.ImplicitAdjoint(max_steps=0), "`max_steps`"),
    "unrolled num_steps 0": (lambda: otjax.UnrolledAdjoint(num_steps=0), "`num_steps`"),
    "divergence x of one axis": (lambda: otjax.sinkhorn_divergence(X[:, 0], Y), "`x`"),
    "divergence a of another length": (
        lambda: otjax.sinkhorn_divergence(X, Y, np.ones(4)),
        "`a`",
    ),
    "divergence solver a class": (
        lambda: otjax.sinkhorn_divergence(X, Y, solver=otjax.Sinkhorn),
        "`solver`",
    ),
}


@pytest.mark.parametrize("name", WRONG_STRUCTURE)
def test_wrong_structure_raises_an_error_that_names_the_argument(name, unchecked):
    call, argument = WRONG_STRUCTURE[name]
    with pytest.raises(ValueError) as raised:
        call()
    assert argument in str(raised.value)


def test_maps_reject_points_of_another_space(unchecked):
    solution = otjax.solve(make_problem(valid_inputs(), "dense", "balanced"))
    for method in (solution.transport, solution.potential):
        for points in (np.ones((3, 5)), np.ones(2), np.ones((3, 2), int), [[0.0, 1.0]]):
            with pytest.raises(ValueError, match="`x`"):
                method(points)
    # What would be broadcast, too, where a map is known by more than its points.
    gaussian = np.zeros(2), np.eye(2), np.ones(2), 2 * np.eye(2)
    found = otjax.semidiscrete(
        lambda key: jax.random.normal(key, (8, 2)), Y, key=jax.random.key(0), throw=False,
        ascent=otjax.StochasticAscent(max_steps=2, num_tests=2),
    )  # fmt: skip
    for method in (
        otjax.gaussian_map(*gaussian),
        otjax.solve_gaussian(*gaussian, epsilon=0.1).transport,
        otjax.ConvexMap(Y, np.zeros(4)),
        found.assign,
        found.transport,
        found.potential,
    ):
        with pytest.raises(ValueError, match="`x` must hold points of 2 coordinates"):
            method(np.ones((3, 1)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: otjax.Sinkhorn(PROBLEM),
        lambda: otjax.Sinkhorn(1e-3),
        lambda: otjax.PointCloud(X, Y, otjax.SqEuclidean()),
        lambda: otjax.EntropicProblem(CLOUD, None, None, 0.1),
        lambda: otjax.solve(PROBLEM, otjax.Sinkhorn(), None),
        lambda: otjax.sinkhorn_divergence(X, Y, None, None, 0.1),
        lambda: otjax.ImplicitAdjoint(1e-3),
        lambda: otjax.GeometricAnnealing(0.1),
    ],
)
def test_options_are_keyword_only(call):
    with pytest.raises(TypeError, match="positional"):
        call()


class Mahalanobis(eqx.Module):
    matrix: jax.Array

    def __call__(self, x, y):
        return jnp.sum(jnp.square(self.matrix @ (x - y)))


class OnlyBlocksRaise(otjax.AbstractGroundCost):
    matrix: jax.Array

    def __call__(self, x, y):
        return jnp.sum(jnp.square(x - y))

    def pairwise(self, x, y):
        return jnp.sum(jnp.square((x[:, None] - y[None]) @ self.matrix), axis=2)


THREE = jnp.arange(1.0, 4.0)  # weights of points of three coordinates, where there are two


@pytest.mark.parametrize(
    "cost",
    [
        lambda x, y: jnp.sum(THREE * jnp.square(x - y)),
        Mahalanobis(jnp.diag(THREE)),
        OnlyBlocksRaise(jnp.diag(THREE)),
    ],
    ids=["callable", "module", "blocks"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda cost: otjax.PointCloud(X, Y, cost=cost),
        lambda cost: jax.jit(lambda x: otjax.sinkhorn_divergence(x, Y, cost=cost))(X),
        lambda cost: otjax.sliced_plan(X, Y, cost=cost, key=jax.random.key(0)),
    ],
    ids=["cloud", "divergence", "slices"],
)
def test_a_cost_that_raises_is_told_with_the_shapes_and_what_it_raised(cost, call, unchecked):
    told = (
        r"^`cost` .* `x_i` of shape \(2,\) and one `y_j` of shape \(2,\)\. It raised TypeError: \w"
    )
    with pytest.raises(ValueError, match=told) as raised:
        call(cost)
    assert isinstance(raised.value.__cause__, TypeError)


def test_on_the_line_and_on_grids_a_point_has_one_coordinate():
    matrix = Mahalanobis(jnp.eye(2))
    for call in (
        lambda: otjax.transport_1d(X[:, 0], Y[:, 0], cost=matrix),
        lambda: otjax.Grid((np.arange(3.0), np.arange(4.0)), cost=matrix),
    ):
        with pytest.raises(ValueError, match=r"^`cost` .* `x_i` of shape \(1,\)"):
            call()


def test_a_cost_whose_block_is_of_another_shape_is_refused(unchecked):
    class Sums(OnlyBlocksRaise):
        def pairwise(self, x, y):
            return jnp.sum(x - y[:1], axis=1)

    with pytest.raises(ValueError, match=r"`cost` must return .* `pairwise`"):
        otjax.PointCloud(X, Y, cost=Sums(jnp.eye(2)))


def test_wrong_structure_is_found_while_tracing():
    with pytest.raises(ValueError, match="`a`"):
        jax.jit(lambda a: otjax.solve(otjax.EntropicProblem(CLOUD, a)).value)(jnp.ones(3))


def test_numbers_instead_of_points_images_and_batches_get_advice_of_their_own():
    numbers = jnp.linspace(0.0, 1.0, 5)
    with pytest.raises(ValueError, match=r"`x` must have axes .* `\[:, None\]`"):
        otjax.sinkhorn_divergence(numbers, numbers)
    image = jnp.full((2, 3), 1 / 6)
    with pytest.raises(ValueError, match=r"`a` must have axes .* `\.ravel\(\)`; .* `jax.vmap`"):
        otjax.EntropicProblem(otjax.CostMatrix(jnp.ones((6, 6))), image)
    with pytest.raises(ValueError, match=r"`masses` must have axes .* `\.reshape\(k, -1\)`"):
        otjax.barycenter(otjax.CostMatrix(jnp.ones((6, 6))), image[None], epsilon=1.0)
    clouds = jnp.zeros((2, 5, 2))
    with pytest.raises(ValueError, match=r"`x` must have axes .* `jax.vmap`"):
        otjax.sinkhorn_divergence(clouds, clouds)


def test_what_is_raised_begins_with_the_name_of_its_status():
    x = jnp.arange(10.0)[:, None]
    problem = otjax.EntropicProblem(otjax.PointCloud(x, x**2), epsilon=1e-3)
    with pytest.raises(RuntimeError, match=r"^`max_steps_reached`: The solver stopped"):
        otjax.solve(problem, max_steps=1)
