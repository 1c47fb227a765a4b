"""Limited-memory BFGS on the entropic semi-dual, by optax: slower, and a check on the others."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._arrays import inner, optional_positive_number
from .._dual import centre, dual_value, marginal_error, product_mass, transport_plan
from .._problem import PreparedProblem
from .._results import RESULTS
from ._annealing import AbstractAnnealing, annealing_or_default
from ._base import (
    AbstractSolver,
    least_resolved_epsilon,
    Outcome,
    Potentials,
    rounding_floor,
    size_of,
    tolerance_or_default,
    weighed_size,
)
from ._start import start


_MAX_STEPS = 5000
_PATIENCE = 100  # steps without progress


class _State(eqx.Module):
    scaled: Float[Array, " m"]  # the second potential in units of epsilon
    best: Float[Array, " m"]
    best_error: Float[Array, ""]
    optimiser: PyTree
    epsilon: Float[Array, ""]
    since_progress: Int[Array, ""]
    num_steps: Int[Array, ""]
    done: Bool[Array, ""]


class LBFGS(AbstractSolver):
    """Annealed L-BFGS on the semi-dual (Liu and Nocedal 1989; `optax.lbfgs`).

    Takes log-sum-exps in every step and line search, so that the other solvers are faster; it
    shares nothing with them but the dual, and so tells whether they are right.
    """

    tolerance: Float[Array, ""] | None
    annealing: AbstractAnnealing
    memory: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        tolerance: ArrayLike | None = None,
        annealing: AbstractAnnealing | None = None,
        memory: int = 10,
    ):
        """**Arguments:**

        - `tolerance`, `annealing`: as for `Sinkhorn`.
        - `memory`: how many past steps the approximation of the Hessian is made of.
        """
        self.tolerance = optional_positive_number(tolerance, "tolerance")
        self.annealing = annealing_or_default(annealing)
        if not isinstance(memory, int) or memory < 1:
            raise ValueError(f"`memory` must be a positive integer, got {memory!r}.")
        self.memory = memory

    def run(
        self,
        problem: PreparedProblem,
        init: Potentials | None,
        max_steps: Int[Array, ""] | None,
    ) -> Outcome:
        optimiser = optax.lbfgs(memory_size=self.memory)
        limit = jnp.asarray(_MAX_STEPS if max_steps is None else max_steps, jnp.int32)
        (_, g), epsilon = start(problem, self.annealing, init, limit)
        # The dual is one of `g` alone; what it is resolved to, its best response tells as well.
        f, g = centre(problem, best_response(problem.at(epsilon), g), g)
        epsilon = jnp.maximum(epsilon, least_resolved_epsilon(size_of(f, g)))
        begin = _State(
            scaled=g / epsilon,
            best=g,
            best_error=jnp.full_like(epsilon, jnp.inf),
            optimiser=optimiser.init(g),
            epsilon=epsilon,
            since_progress=jnp.zeros((), jnp.int32),
            num_steps=jnp.zeros((), jnp.int32),
            done=limit <= 0,
        )
        end = lax.while_loop(
            lambda state: ~state.done,
            lambda state: self._step(problem, optimiser, state, limit),
            begin,
        )
        return self._outcome(problem, end)

    def _step(
        self,
        problem: PreparedProblem,
        optimiser: optax.GradientTransformationExtraArgs,
        state: _State,
        limit: Int[Array, ""],
    ) -> _State:
        current = problem.at(state.epsilon)

        def loss(scaled: Float[Array, " m"]) -> Float[Array, ""]:
            # optax's line search has lengths of double precision wherever JAX has that.
            scaled = scaled.astype(state.scaled.dtype)
            return -_semi_dual(current, state.epsilon * scaled) / state.epsilon

        value, gradient = optax.value_and_grad_from_state(loss)(state.scaled, state=state.optimiser)
        # The gradient in these units is what the second marginal lacks.
        target = problem.b * problem.marginals[1].share(state.epsilon * state.scaled)
        error = jnp.sum(jnp.abs(gradient)) / jnp.sum(target)
        f = best_response(current, state.epsilon * state.scaled)
        least = least_resolved_epsilon(size_of(f, state.epsilon * state.scaled))
        at_end = state.epsilon <= jnp.maximum(problem.epsilon, 1.1 * least)
        unresolved = 1.1 * state.epsilon < least
        floor = rounding_floor(
            state.epsilon, weighed_size(problem, f, state.epsilon * state.scaled)
        )
        tolerance = tolerance_or_default(self.tolerance, floor)
        stage_tolerance = self.annealing.tolerance(state.epsilon, problem.epsilon, tolerance)
        solved = error <= stage_tolerance
        hurry = state.num_steps + 2 >= limit
        leave = (~at_end & (solved | hurry)) | unresolved

        # Within optax dtypes are promoted implicitly.
        with jax.numpy_dtype_promotion("standard"):
            updates, history = optimiser.update(
                gradient, state.optimiser, state.scaled, value=value, grad=gradient, value_fn=loss
            )
        following = self.annealing.next(state.epsilon, problem.epsilon)
        following = jnp.maximum(jnp.where(hurry, problem.epsilon, following), least)
        epsilon = jnp.where(leave, following, state.epsilon)
        scaled = jnp.where(leave, state.scaled * (state.epsilon / epsilon), state.scaled + updates)
        fresh = optimiser.init(scaled)
        finite = jnp.all(jnp.isfinite(scaled))
        better = (error < state.best_error) | leave
        progress = (error < 0.99 * state.best_error) | leave
        since_progress = jnp.where(progress, 0, state.since_progress + 1)
        return _State(
            scaled=jnp.where(finite, scaled, state.scaled),
            best=jnp.where(better, state.epsilon * state.scaled, state.best),
            best_error=jnp.where(leave, jnp.inf, jnp.minimum(error, state.best_error)),
            optimiser=jax.tree.map(lambda new, old: jnp.where(leave, new, old), fresh, history),
            epsilon=epsilon,
            since_progress=since_progress,
            num_steps=state.num_steps + 1,
            done=(at_end & solved & ~unresolved)
            | (state.num_steps + 1 >= limit)
            | (since_progress >= _PATIENCE)
            | ~finite,
        )

    def _outcome(self, problem: PreparedProblem, end: _State) -> Outcome:
        """The potentials of least error, with the first one the best response to the second."""
        resolved = end.epsilon <= problem.epsilon
        problem = problem.at(end.epsilon)
        f = best_response(problem, end.best)
        # Points of mass zero take no part in the dual; their potentials follow the others.
        f, g = centre(problem, f, jnp.where(problem.b > 0, end.best, best_response(problem.T, f)))
        plan = transport_plan(problem, f, g)
        marginals = plan.mv(jnp.ones_like(g)), plan.T.mv(jnp.ones_like(f))
        error = marginal_error(problem, f, g, marginals)
        tolerance = tolerance_or_default(
            self.tolerance, rounding_floor(problem.epsilon, weighed_size(problem, f, g))
        )
        stalled = end.since_progress >= _PATIENCE
        result = RESULTS.where(stalled, RESULTS.stagnated, RESULTS.max_steps_reached)
        result = RESULTS.where(error <= tolerance, RESULTS.successful, result)
        result = RESULTS.where(resolved, result, RESULTS.unresolved_epsilon)
        result = RESULTS.where(jnp.isfinite(error), result, RESULTS.nonfinite)
        return Outcome(f, g, problem.epsilon, marginals, end.num_steps, result)


def best_response(problem: PreparedProblem, g: Float[Array, " m"]) -> Float[Array, " n"]:
    """The first potential that maximises the dual at `g`."""
    epsilon = problem.epsilon
    softmin = problem.geometry.softmin(g + epsilon * jnp.log(problem.b), epsilon)
    return problem.marginals[0].damping(epsilon) * softmin


def _semi_dual(problem: PreparedProblem, g: Float[Array, " m"]) -> Float[Array, ""]:
    """The dual as a function of `g` alone."""
    f = best_response(problem, g)
    mass = inner(problem.a, problem.marginals[0].share(f))
    return dual_value(problem, f, g, mass - product_mass(problem))
