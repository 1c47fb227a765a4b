"""The Sinkhorn divergence, a transport loss without entropic bias."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ._adjoint import AbstractAdjoint
from ._geometry import AbstractGeometry
from ._marginals import AbstractMarginal, Balanced
from ._mesh import on_any_mesh
from ._problem import EntropicProblem, Relative, valid_masses
from ._results import is_invalid, RESULTS
from ._slack import has_slack
from ._solution import Solution
from ._solve import solve
from ._solver import AbstractSolver, SymmetricSinkhorn


Out = TypeVar("Out")

# Three pairs of potentials.
Start: TypeAlias = tuple[ArrayLike, ArrayLike]
Starts: TypeAlias = tuple[Start, Start, Start]


class DivergenceSolutions(NamedTuple):
    """The solutions behind a Sinkhorn divergence: between the measures, and of each with itself."""

    xy: Solution
    xx: Solution
    yy: Solution

    @property
    def potentials(self) -> Starts:
        """Those of the three solutions: an `init` for a divergence of measures that are near."""
        return self.xy.potentials, self.xx.potentials, self.yy.potentials


@on_any_mesh
def divergence(
    xy: AbstractGeometry,
    xx: AbstractGeometry | Solution,
    yy: AbstractGeometry | Solution,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike | Relative | None = None,
    marginals: AbstractMarginal | tuple[AbstractMarginal, AbstractMarginal] = Balanced(),
    solver: AbstractSolver | None = None,
    self_solver: AbstractSolver | None = None,
    tolerance: ArrayLike | None = None,
    init: Starts | None = None,
    adjoint: AbstractAdjoint | None = None,
    max_steps: int | Int[Array, ""] | None = None,
) -> tuple[Float[Array, ""], DivergenceSolutions]:
    r"""The Sinkhorn divergence over any three geometries, and the solutions behind it.

    `sinkhorn_divergence` is this for `PointCloud`s, and says what it is. Never raises for values:
    the solutions tell what failed, beside numbers that are finite.

    **Arguments:**

    - `xy`: the geometry between the two measures, shape (n, m).
    - `xx`, `yy`: those of each measure with itself, shapes (n, n) and (m, m); or with other samples
        of itself, then with a `self_solver` for two measures; or, for a measure that stays as it
        is, a `Solution` made once, at the same `epsilon`, whose value is used as it stands.
    - `a`, `b`: the masses, shapes (n,) and (m,); `None` is uniform of total 1.
    - `epsilon`: as for `EntropicProblem`; one that is `Relative` is relative to the costs of `xy`,
        and the number is shared by all three. `None` is that of a `Solution` if one is given.
    - `marginals`: `Balanced()`, `Unbalanced(rho)`, or a pair of them.
    - `solver`, `tolerance`, `adjoint`, `max_steps`: as for `solve`, for each of the three.
    - `self_solver`: for the two self-terms. `None` is `solver`, or `SymmetricSinkhorn` where none
        is given.
    - `init`: three pairs of potentials to start from, `solutions.potentials` of an earlier call.

    **Returns:** the divergence, in the unit of the cost, and the solutions `(xy, xx, yy)`.

    **Raises:** `ValueError` for arguments of the wrong kind or shape.
    """
    given = [term for term in (xx, yy) if isinstance(term, Solution)]
    if epsilon is None and given:
        epsilon = given[0].problem.epsilon
    if self_solver is None:
        self_solver = SymmetricSinkhorn(tolerance=tolerance) if solver is None else solver
    if init is not None and (not isinstance(init, tuple) or len(init) != 3):
        raise ValueError("`init` must be three pairs of potentials, `solutions.potentials`.")
    starts = (None, None, None) if init is None else init
    how = {"adjoint": adjoint, "max_steps": max_steps, "throw": False}

    problem = EntropicProblem(xy, a, b, epsilon=epsilon, marginals=marginals)
    if has_slack(problem):
        raise ValueError(
            "`marginals` of a divergence must be `Balanced()` or `Unbalanced(rho)`, since of a "
            f"measure with itself there is nothing to leave; got {marginals!r}."
        )
    side_a, side_b = problem.marginals
    cross = solve(problem, solver, tolerance=tolerance, init=starts[0], **how)

    def itself(name, term, masses, side):
        if isinstance(term, Solution):
            return _of_epsilon(term, cross.epsilon)
        if not isinstance(term, AbstractGeometry):
            raise ValueError(
                f"`{name}` must be a geometry or a `Solution`, got {type(term).__name__}."
            )
        if term.shape != masses.shape * 2:
            raise ValueError(
                f"`{name}` must be of shape {masses.shape * 2}, as `xy` is of shape {xy.shape}, "
                f"got {term.shape}."
            )
        return EntropicProblem(term, masses, masses, epsilon=cross.epsilon, marginals=side)

    terms = itself("xx", xx, problem.a, side_a), itself("yy", yy, problem.b, side_b)
    solve_one = lambda term, start: (
        term if isinstance(term, Solution) else solve(term, self_solver, init=start, **how)
    )
    solutions = DivergenceSolutions(
        cross, *_each(solve_one, (terms[0], starts[1]), (terms[1], starts[2]))
    )
    value = cross.value - 0.5 * (solutions.xx.value + solutions.yy.value)
    if not cross.prepared.has_gauge:
        totals = [jnp.sum(valid_masses(masses)[0]) for masses in (problem.a, problem.b)]
        value += 0.5 * cross.epsilon * jnp.square(totals[0] - totals[1])
    # Rounding may take it below zero; its derivative is right there too.
    return value - lax.stop_gradient(jnp.minimum(value, 0)), solutions


def _of_epsilon(given: Solution, epsilon: Float[Array, ""]) -> Solution:
    """A solution, which says so if it is one at another epsilon."""
    same = jnp.abs(given.epsilon / epsilon - 1) < 1e-4
    result = RESULTS.where(same, given.result, RESULTS.other_epsilon)
    return eqx.tree_at(lambda solution: solution.result, given, result)


def _each(function: Callable[..., Out], first: tuple, second: tuple) -> tuple[Out, Out]:
    """The results for two tuples of arguments: where these have one structure as a batch of two,
    which is one program to compile."""
    (arrays, static), (others, other_static) = (
        eqx.partition(arguments, eqx.is_array) for arguments in (first, second)
    )
    shapes = lambda tree: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
    alike = jax.tree.structure(arrays) == jax.tree.structure(others)
    alike = alike and shapes(arrays) == shapes(others)
    # A batch on the devices of an explicit mesh is not made part of another batch.
    alike = alike and not jax.sharding.get_abstract_mesh().explicit_axes
    if not alike or not eqx.tree_equal(static, other_static):
        return function(*first), function(*second)
    both = jax.tree.map(lambda *pair: jnp.stack(pair), arrays, others)
    batch = eqx.filter_vmap(lambda arrays: function(*eqx.combine(arrays, static)))(both)
    one = lambda k: jax.tree.map(lambda leaf: leaf[k] if eqx.is_array(leaf) else leaf, batch)
    return one(0), one(1)


def nan_unless_valid(value: Float[Array, ""], *results: RESULTS) -> Float[Array, ""]:
    """What a loss without a status hands out: NaN with derivatives 0 where the input is invalid."""
    invalid = jnp.any(jnp.stack([is_invalid(result) for result in results]))
    return jnp.where(invalid, jnp.nan, value)
