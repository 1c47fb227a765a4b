"""Samples carried along a drift, with noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from .._arrays import float_scalar
from .._results import RESULTS
from .._varying import scan
from ._batches import all_finite, batch, checked_velocity, Velocity


class Diffusion(eqx.Module):
    r"""Where a stochastic process has carried samples.

    - `samples`: where they are at the end, shape (n, ...).
    - `path_energy`: $\int \mathbb{E} \|b\|^2 dt$ of the drift $b$. Over $2 \sigma^2$ it is how far
      the process is from a Brownian motion of the same start, in the sense of KL.
    - `num_evaluations`: how often the drift was evaluated for each sample.
    - `result`: a member of `RESULTS`.
    """

    samples: Float[Array, "n ..."]
    path_energy: Float[Array, ""]
    num_evaluations: Int[Array, ""]
    result: RESULTS


def diffuse(
    drift: Velocity,
    key: Array,
    x0: ArrayLike,
    condition: ArrayLike | None = None,
    *,
    sigma: ArrayLike,
    num_steps: int = 100,
) -> Diffusion:
    r"""Simulates $dX = b(t, X)\, dt + \sigma\, dW$ from time 0 to 1, by Euler-Maruyama steps of
    equal length.

    Derivatives go through the steps, in both modes; backward each step is computed again.

    **Arguments:**

    - `drift`: maps a time and one sample, `(t, x)`, or `(t, x, condition)` where there is one, to
        the drift, like the sample; it is vmapped here. Any callable pytree.
    - `key`: a key of `jax.random`.
    - `x0`: the samples at the start, shape (n, ...).
    - `condition`: what each sample comes with, axes (n, ...).
    - `sigma`: the diffusion, in the unit of the samples per square root of time.
    - `num_steps`: how many steps.

    **Returns:** a `Diffusion`.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x0 = batch(x0, "x0")
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"`num_steps` must be a whole number, at least 1, got {num_steps!r}.")
    conditions: tuple[Array, ...] = () if condition is None else (jnp.asarray(condition),)
    for one in conditions:
        if one.ndim == 0 or len(one) != len(x0):
            raise ValueError(
                f"`condition` must have one entry for each sample, axes ({len(x0)}, ...), got "
                f"shape {one.shape}."
            )
    return _diffuse(drift, key, x0, conditions, float_scalar(sigma, "sigma", x0.dtype), num_steps)


@eqx.filter_jit
def _diffuse(
    drift: Velocity,
    key: Array,
    x0: Float[Array, "n ..."],
    conditions: tuple[Array, ...],
    sigma: Float[Array, ""],
    num_steps: int,
) -> Diffusion:
    drifts = jax.vmap(checked_velocity(drift, "drift"), in_axes=(None, 0, *(0 for _ in conditions)))
    step = 1 / num_steps

    @jax.checkpoint
    def one_step(state: tuple[Array, Array], given: tuple[Array, Array]):
        (x, energy), (index, key) = state, given
        b = drifts(step * index.astype(x.dtype), x, *conditions)
        noise = jr.normal(key, x.shape, x.dtype)
        energy = energy + step * jnp.sum(jnp.square(b)) / len(x)
        return (x + step * b + sigma * step**0.5 * noise, energy), None

    given = jnp.arange(num_steps), jr.split(key, num_steps)
    (x1, energy), _ = scan(one_step, (x0, jnp.zeros((), x0.dtype)), given)
    result = RESULTS.where(all_finite(x1), RESULTS.successful, RESULTS.nonfinite_path)
    return Diffusion(
        samples=x1,
        path_energy=energy,
        num_evaluations=jnp.asarray(num_steps, jnp.int32),
        result=RESULTS.where(all_finite(x0), result, RESULTS.nonfinite_input),
    )
