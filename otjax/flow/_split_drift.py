"""The drift of the Sinkhorn divergence, estimated by two batches of samples."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import constant
from .._sinkhorn_divergence import sinkhorn_divergence
from .._solver import AbstractSolver
from ._batches import two_batches, vectors
from ._drift import AbstractDrift, Drift, DriftSolutions, positive_numbers, root_mean_square
from ._sinkhorn_drift import plan_map, solved_plan, worst_result


class SplitSinkhornDrift(AbstractDrift):
    r"""The drift $T_{xy}(x) - T_{xx'}(x)$, where samples are repelled by others than themselves
    (Han et al. 2026, arXiv:2605.11755, W-Flow).

    The samples are split into two halves, and each stands for the law of the other's: so a plan of
    samples with their like has no diagonal, and the same noise and blur as that with the data.
    Where the two laws are equal, and the halves are as many as the data, this drift has mean zero,
    where that of `SinkhornDrift` pulls together by half of what chance sets two batches apart. It
    costs less: a plan of two halves instead of the whole with itself.
    """

    epsilon: Float[Array, " k"]
    solver: AbstractSolver | None

    def __init__(
        self, epsilon: ArrayLike | tuple[float, ...], *, solver: AbstractSolver | None = None
    ):
        """**Arguments:** as of `SinkhornDrift`; `solver` is that of all plans.

        **Raises:** `ValueError` for an epsilon that is not positive, and a solver of another kind.
        """
        if solver is not None and not isinstance(solver, AbstractSolver):
            raise ValueError(f"`solver` must be a solver such as `Sinkhorn()`, got {solver!r}.")
        self.epsilon, self.solver = positive_numbers(epsilon, "epsilon"), solver

    @eqx.filter_jit
    def __call__(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "n ..."]:
        samples, data = constant(two_batches(x, y, ("x", "y")))
        return self._fields(samples, data, None)[0]

    @eqx.filter_jit
    def evaluate(self, x: ArrayLike, y: ArrayLike, init: Drift | None = None) -> Drift:
        """As of any drift: `w2` is that of `SinkhornDrift`, of the whole."""
        samples, data = constant(two_batches(x, y, ("x", "y")))
        field, solutions = self._fields(samples, data, None if init is None else init.solutions)
        epsilon = jnp.min(constant(self.epsilon)).astype(samples.dtype)
        divergence = sinkhorn_divergence(
            vectors(samples), vectors(data), epsilon=epsilon, solver=self.solver
        )
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), solutions.xy.result)
        joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), flat, solutions.xx.result)
        return Drift(
            field=field,
            size=root_mean_square(field),
            w2=jnp.sqrt(divergence),
            solutions=solutions,
            result=worst_result(3 * len(self.epsilon), joined),
        )

    def _fields(
        self,
        samples: Float[Array, "n ..."],
        data: Float[Array, "m ..."],
        warm: DriftSolutions | None,
    ) -> tuple[Float[Array, "n ..."], DriftSolutions]:
        x, y = vectors(samples), vectors(data)
        n, d = x.shape
        if n % 2:
            raise ValueError(f"`x` must hold an even number of samples, two halves, got {n}.")
        halves = x.reshape(2, n // 2, d)
        # So that differences of maps do not cancel far from the origin.
        centre = jnp.mean(y, axis=0, keepdims=True)

        def at(given: tuple[Float[Array, ""], DriftSolutions | None]):
            epsilon, warm = given

            def to_data(given):
                half, warm = given
                solution = solved_plan(half, y, epsilon, self.solver, warm)
                return plan_map(solution, half - centre, y - centre), solution

            xy, xx = (None, None) if warm is None else warm
            goals, crossed = lax.map(to_data, (halves, xy))
            between = solved_plan(halves[0], halves[1], epsilon, self.solver, xx)
            left, right = halves - centre[None, :, :]
            others = plan_map(between, left, right), plan_map(between.T, right, left)
            fields = (goals - jnp.stack(others)).reshape(n, d)
            return fields, DriftSolutions(crossed, between)

        # One after the other, so that the matrices of one temperature exist at a time.
        fields, solutions = lax.map(at, (constant(self.epsilon).astype(x.dtype), warm))
        return jnp.mean(fields, axis=0).reshape(samples.shape), solutions
