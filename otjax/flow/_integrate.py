"""Samples carried along a velocity field."""

import abc
from collections.abc import Callable
from typing import Literal, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import constant, float_scalar
from .._results import RESULTS
from .._varying import scan
from ._adaptive import Tsit5
from ._batches import all_finite, batch, checked_velocity, Velocity
from ._runge_kutta import AbstractRungeKutta, advance, Heun


class AbstractTrace(eqx.Module):
    """How the divergence of a velocity field is computed, for densities along the flow."""

    @abc.abstractmethod
    def directions(self, x: Float[Array, "n ..."]) -> Float[Array, "n k ..."]:
        r"""For each sample directions $z_k$ such that $\sum_k \langle z_k, J z_k \rangle$ is the
        trace of any matrix $J$, or has it for its mean."""


class ExactTrace(AbstractTrace):
    """The divergence itself, by one forward derivative for each coordinate."""

    def directions(self, x: Float[Array, "n ..."]) -> Float[Array, "n k ..."]:
        shape = x.shape[1:]
        basis = jnp.eye(x[0].size, dtype=x.dtype).reshape(-1, *shape)
        return jnp.broadcast_to(basis[None], (len(x), *basis.shape))


class Hutchinson(AbstractTrace):
    """An estimate without bias, by forward derivatives along random signs, the same along a path
    (Hutchinson 1989; Grathwohl et al. 2018, arXiv:1810.01367)."""

    key: Array
    num_probes: int = eqx.field(static=True)

    def __init__(self, key: Array, *, num_probes: int = 1):
        """**Arguments:**

        - `key`: a key of `jax.random`.
        - `num_probes`: how many directions to take the mean over.
        """
        if not isinstance(num_probes, int) or num_probes < 1:
            raise ValueError(
                f"`num_probes` must be a whole number, at least 1, got {num_probes!r}."
            )
        self.key, self.num_probes = key, num_probes

    def directions(self, x: Float[Array, "n ..."]) -> Float[Array, "n k ..."]:
        shape = (len(x), self.num_probes, *x.shape[1:])
        return jr.rademacher(self.key, shape, x.dtype) / self.num_probes**0.5


class Flow(eqx.Module):
    r"""Where a velocity field has carried samples, and how straight the way was.

    - `samples`: where they are at the end, shape (n, ...).
    - `path_energy`: $\int \mathbb{E} \|v\|^2 dt$, at least the mean squared displacement over the
      time, which is at least $W_2^2$ of start and end over the time.
    - `straightness`: $\int \mathbb{E} \|v - (x_1 - x_0) / T\|^2 dt$ over the time $T$; 0 if and
      only if all paths are straight and of constant speed. Not negative, up to rounding.
    - `num_evaluations`: how often the velocity was evaluated for each sample.
    - `log_volume`: $\int \nabla \cdot v\, dt$ along each path, shape (n,), or None if it was not
      asked for. The log-density of a sample falls by it on the way.
    - `result`: a member of `RESULTS`.
    """

    samples: Float[Array, "n ..."]
    path_energy: Float[Array, ""]
    straightness: Float[Array, ""]
    num_evaluations: Int[Array, ""]
    log_volume: Float[Array, " n"] | None
    result: RESULTS


def integrate(
    velocity: Velocity,
    x0: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    solver: AbstractRungeKutta | Tsit5 = Heun(),
    num_steps: int = 50,
    start: ArrayLike = 0.0,
    end: ArrayLike = 1.0,
    trace: AbstractTrace | None = None,
) -> Flow:
    r"""Carries samples along a velocity field, $\dot x = v(t, x)$, by steps of equal length, or of
    one that adapts.

    Derivatives go through the steps, in both modes; backward each step is computed again, so that
    memory is that of the samples at each step.

    **Arguments:**

    - `velocity`: maps a time and one sample, `(t, x)`, or `(t, x, condition)` where there is one,
        to the velocity, like the sample; it is vmapped here.
    - `x0`: the samples at the start, shape (n, ...).
    - `condition`: what each sample comes with, axes (n, ...).
    - `solver`: `Euler()`, `Heun()` or `RK4()`; or `Tsit5()`, whose derivatives go backward only.
    - `num_steps`: how many steps; the first of `Tsit5()` is as long as they would be.
    - `start`, `end`: the times; with `end` before `start` it goes backward.
    - `trace`: `ExactTrace()` or `Hutchinson(key)` for densities; None leaves them out.

    **Returns:** a `Flow`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x0 = batch(x0, "x0")
    if not isinstance(solver, AbstractRungeKutta | Tsit5):
        raise ValueError(f"`solver` must be a method such as `Heun()`, got {solver!r}.")
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"`num_steps` must be a whole number, at least 1, got {num_steps!r}.")
    if trace is not None and not isinstance(trace, AbstractTrace):
        raise ValueError(f"`trace` must be `ExactTrace()` or `Hutchinson(key)`, got {trace!r}.")
    conditions: tuple[Array, ...] = () if condition is None else (jnp.asarray(condition),)
    for one in conditions:
        if one.ndim == 0 or len(one) != len(x0):
            raise ValueError(
                f"`condition` must have one entry for each sample, axes ({len(x0)}, ...), got "
                f"shape {one.shape}."
            )
    start, end = (float_scalar(t, n, x0.dtype) for t, n in ((start, "start"), (end, "end")))
    return _integrate(velocity, x0, conditions, solver, num_steps, (start, end), trace)


@eqx.filter_jit
def _integrate(
    velocity: Velocity,
    x0: Float[Array, "n ..."],
    conditions: tuple[Array, ...],
    solver: AbstractRungeKutta | Tsit5,
    num_steps: int,
    times: tuple[Float[Array, ""], Float[Array, ""]],
    trace: AbstractTrace | None,
) -> Flow:
    start, end = times
    step, duration = (end - start) / num_steps, jnp.abs(end - start)
    velocities = jax.vmap(checked_velocity(velocity), in_axes=(None, 0, *(0 for _ in conditions)))
    directions = None if trace is None else trace.directions(x0)

    def rate(t: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        """The derivatives of positions, of energy, and of volume if it is asked for."""
        field = lambda x: velocities(t, x, *conditions)
        if directions is None:
            v, volume = field(state[0]), ()
        else:
            v, volume = _with_divergence(field, state[0], directions)
        return v, jnp.sum(jnp.square(v)) / len(v), *volume

    zeros = () if trace is None else (jnp.zeros(len(x0), x0.dtype),)
    init = (x0, jnp.zeros((), x0.dtype), *zeros)
    if isinstance(solver, Tsit5):
        (x1, energy, *log_volume), evaluations, reached = solver.carry(rate, init, times, step)
    else:
        x1, energy, *log_volume = _on_grid(solver, rate, init, start, step, num_steps)
        evaluations = jnp.asarray(num_steps * len(solver.table[1]), jnp.int32)
        reached = jnp.array(True)
    energy = energy * jnp.sign(step)
    displacement = jnp.sum(jnp.square(x1 - x0)) / len(x0)
    result = RESULTS.where(all_finite(x1), RESULTS.successful, RESULTS.nonfinite_path)
    result = RESULTS.where(reached, result, RESULTS.max_steps_reached)
    return Flow(
        samples=x1,
        path_energy=energy,
        straightness=energy - displacement / duration,
        num_evaluations=evaluations,
        log_volume=log_volume[0] if log_volume else None,
        result=RESULTS.where(all_finite(x0), result, RESULTS.nonfinite_input),
    )


def _on_grid(
    solver: AbstractRungeKutta,
    rate: Callable[[Array, tuple[Array, ...]], tuple[Array, ...]],
    state: tuple[Array, ...],
    start: Float[Array, ""],
    step: Float[Array, ""],
    num_steps: int,
) -> tuple[Array, ...]:
    @jax.checkpoint
    def one_step(state: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], None]:
        t = start + step * index.astype(start.dtype)
        return advance(solver, rate, t, state, step), None

    return scan(one_step, state, jnp.arange(num_steps))[0]


def _with_divergence(field, x, directions):
    """The field, and for each sample the trace that its directions give."""
    v, push = jax.linearize(field, x)
    # All samples at once: a sample's velocity depends on that sample alone.
    pushed = jax.vmap(push, in_axes=1, out_axes=1)(directions)
    products = (directions * pushed).reshape(len(x), -1)
    return v, (jnp.sum(products, axis=1),)


@overload
def reflow(
    velocity: Velocity,
    x0: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    solver: AbstractRungeKutta | Tsit5 = Heun(),
    num_steps: int = 50,
    has_aux: Literal[False] = False,
) -> tuple[Float[Array, "n ..."], Float[Array, "n ..."]]: ...


@overload
def reflow(
    velocity: Velocity,
    x0: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    solver: AbstractRungeKutta | Tsit5 = Heun(),
    num_steps: int = 50,
    has_aux: Literal[True],
) -> tuple[tuple[Float[Array, "n ..."], Float[Array, "n ..."]], Flow]: ...


def reflow(
    velocity: Velocity,
    x0: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    solver: AbstractRungeKutta | Tsit5 = Heun(),
    num_steps: int = 50,
    has_aux: bool = False,
):
    """The pairs of starts and ends that a velocity field makes, to train the next field on, with
    `coupling=Paired()`: each round makes paths straighter (Liu et al. 2022, arXiv:2209.03003).

    They inherit the error of the integration and of the field: use many steps and many fresh
    samples. They are constants: nothing is differentiated through them.

    **Arguments:** as for `integrate`, and

    - `has_aux`: whether to return the `Flow` as well.

    **Returns:** `(z0, z1)`, both like `x0`; with `has_aux` the pair of them and the `Flow`.

    **Raises:** `ValueError`, as `integrate` does.
    """
    flow = constant(integrate(velocity, x0, condition, solver=solver, num_steps=num_steps))
    pairs = constant(batch(x0, "x0")), flow.samples
    return (pairs, flow) if has_aux else pairs
