"""Particles that follow the Wasserstein gradient of a divergence."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._arrays import positive_number
from .._control import cond_any
from .._results import RESULTS
from .._varying import scan
from ._batches import all_finite, batch, vectors
from ._energies import shares


# A step is kept if the objective falls by half of what its slope promises: for a quadratic that is
# a step no longer than to its minimum, so that the path stays near the flow.
_SHARE_OF_DESCENT = 0.5
_GROWTH, _SHRINKAGE = 1.5, 0.5
_MOST_REJECTIONS = 30

Objective = Callable[[Array], Array]


class GradientFlow(eqx.Module):
    r"""Where particles have flowed to.

    - `samples`: the particles, shape (n, ...).
    - `value`: the objective there.
    - `norm`: the root of the mean of $\|v\|^2$ there, with $v$ the velocity of the flow.
    - `time`: how long they have flowed: the sum of the steps.
    - `num_steps`: how many gradients were evaluated after the first, those of steps that were not
      kept included.
    - `result`: a member of `RESULTS`.
    """

    samples: Float[Array, "n ..."]
    value: Float[Array, ""]
    norm: Float[Array, ""]
    time: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: RESULTS


class _State(eqx.Module):
    x: Float[Array, "n ..."]
    value: Float[Array, ""]
    velocity: Float[Array, "n ..."]
    norm: Float[Array, ""]
    step: Float[Array, ""]
    time: Float[Array, ""]
    rejections: Int[Array, ""]
    num_steps: Int[Array, ""]


def gradient_flow(
    objective: Objective,
    x: ArrayLike,
    a: ArrayLike | None = None,
    *,
    step_size: ArrayLike = 0.1,
    tolerance: ArrayLike = 1e-2,
    max_steps: int = 200,
) -> GradientFlow:
    r"""Lets particles follow the Wasserstein gradient flow of an objective,

    $$\dot x_i = - \frac1{a_i} \frac{\partial F}{\partial x_i},$$

    by explicit steps of adaptive length, until the velocity has fallen to a share of what it was
    at the start. The objective falls with each step that is kept.

    For `lambda x: otjax.sinkhorn_divergence(x, y, epsilon=epsilon)` particles move straight to
    where the plan sends them if `epsilon` is small, as $e^{-2 t}$ (Feydy et al. 2019,
    arXiv:1810.08278). Derivatives go through the steps, in both modes; backward each one is
    computed again.

    **Arguments:**

    - `objective`: maps the particles, like `x`, to a scalar of their dtype.
    - `x`: the particles at the start, shape (n, ...).
    - `a`: their masses, shape (n,), those that the objective sees; None is uniform of total 1. A
        particle of mass zero stays where it is.
    - `step_size`: the first step; later ones are longer or shorter.
    - `tolerance`: the norm of the velocity at which to stop, relative to that at the start.
    - `max_steps`: the largest number of gradients; the memory of a derivative grows with it.

    **Returns:** a `GradientFlow`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = batch(x, "x")
    if not callable(objective):
        raise ValueError(f"`objective` must be a callable of the particles, got {objective!r}.")
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"`max_steps` must be a whole number, at least 1, got {max_steps!r}.")
    step_size = positive_number(step_size, "step_size", x.dtype)
    tolerance = positive_number(tolerance, "tolerance", x.dtype)
    return _flow(objective, x, shares(a, x), step_size, tolerance, max_steps)


@eqx.filter_jit
def _flow(
    objective: Objective,
    x: Float[Array, "n ..."],
    masses: Float[Array, " n"],
    step_size: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: int,
) -> GradientFlow:
    start = _at(objective, x, masses, step_size)

    def finished(state: _State) -> Bool[Array, ""]:
        reached = state.norm <= tolerance * start.norm
        return reached | (state.rejections >= _MOST_REJECTIONS) | ~_usable(start)

    @jax.checkpoint
    def body(state: _State, _) -> tuple[_State, None]:
        go_on = lambda: _step(objective, masses, state)
        return cond_any(~finished(state), go_on, lambda: state), None

    end, _ = scan(body, start, None, length=max_steps)
    result = RESULTS.successful
    for wrong, name in (
        (end.norm > tolerance * start.norm, RESULTS.max_steps_reached),
        (end.rejections >= _MOST_REJECTIONS, RESULTS.no_descent),
        (~_usable(start), RESULTS.nonfinite_input),
    ):
        result = RESULTS.where(wrong, name, result)
    return GradientFlow(end.x, end.value, end.norm, end.time, end.num_steps, result)


def _at(
    objective: Objective, x: Float[Array, "n ..."], masses: Float[Array, " n"], step: Array
) -> _State:
    """The state at the start, or at a candidate."""

    def scalar(x: Array) -> Array:
        value = objective(x)
        if jnp.shape(value) != () or jnp.result_type(value) != x.dtype:
            raise ValueError(
                f"`objective` must return a scalar of the dtype of the particles, {x.dtype}, got "
                f"shape {jnp.shape(value)} and dtype {jnp.result_type(value)}."
            )
        return value

    value, gradient = jax.value_and_grad(scalar)(x)
    weights = masses.reshape(-1, *(1 for _ in x.shape[1:]))
    alive = weights > 0
    velocity = jnp.where(alive, -gradient / jnp.where(alive, weights, 1), 0)
    squares = jnp.sum(jnp.square(vectors(velocity)), axis=1)
    mean = jnp.sum(masses * squares) / jnp.sum(masses)
    positive = mean > 0
    norm = jnp.where(
        positive, jnp.sqrt(jnp.where(positive, mean, 1)), jnp.where(mean == 0, 0, mean)
    )
    zero, none = jnp.zeros((), x.dtype), jnp.zeros((), jnp.int32)
    return _State(x, value, velocity, norm, step, zero, none, none)


def _usable(state: _State) -> Bool[Array, ""]:
    return all_finite(state.x, state.value, state.velocity)


def _step(objective: Objective, masses: Float[Array, " n"], state: _State) -> _State:
    candidate = _at(objective, state.x + state.step * state.velocity, masses, state.step)
    descent = state.step * jnp.sum(masses) * jnp.square(state.norm)
    kept = _usable(candidate) & (candidate.value <= state.value - _SHARE_OF_DESCENT * descent)
    new, old = (
        eqx.tree_at(
            lambda s: (s.step, s.time, s.rejections, s.num_steps),
            base,
            (factor * state.step, time, rejections, state.num_steps + 1),
        )
        for base, factor, time, rejections in (
            (candidate, _GROWTH, state.time + state.step, jnp.zeros((), jnp.int32)),
            (state, _SHRINKAGE, state.time, state.rejections + 1),
        )
    )
    return jax.tree.map(lambda one, other: jnp.where(kept, one, other), new, old)
