"""Energies of particles: a potential, and the entropy of a smoothed density."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import float_array, positive_number
from .._ground_cost import SqEuclidean
from ._batches import batch, vectors


def shares(a: ArrayLike | None, x: Float[Array, "n ..."], name: str = "a") -> Float[Array, " n"]:
    """The masses of particles; uniform of total 1 where None.

    **Raises:** `ValueError`, naming the argument.
    """
    if a is None:
        return jnp.full(len(x), 1 / len(x), x.dtype)
    masses = float_array(a, name, "points").astype(x.dtype)
    if masses.shape != (len(x),):
        raise ValueError(
            f"`{name}` must have one mass for each particle, shape ({len(x)},), got {masses.shape}."
        )
    return masses


@eqx.filter_jit
def potential_energy(
    potential: Callable[[Array], Array], x: ArrayLike, a: ArrayLike | None = None
) -> Float[Array, ""]:
    r"""The energy of particles in a potential, $\sum_i a_i V(x_i)$.

    **Arguments:**

    - `potential`: maps one particle to a scalar; it is vmapped here. Any callable pytree.
    - `x`: the particles, shape (n, ...).
    - `a`: their masses, shape (n,); None is uniform of total 1.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = batch(x, "x")
    return jnp.sum(shares(a, x) * jax.vmap(checked_potential(potential))(x))


def checked_potential(potential: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The potential, with a check of what it returns.

    **Raises:** `ValueError`, naming `potential`, if it cannot be called, and when called, if it
    does not return a scalar of the dtype of its point.
    """
    if not callable(potential):
        raise ValueError(f"`potential` must be a callable of one point, got {potential!r}.")

    def checked(x: Array) -> Array:
        value = potential(x)
        if jnp.shape(value) != () or jnp.result_type(value) != x.dtype:
            raise ValueError(
                f"`potential` must map a point of shape {x.shape} to a scalar of its dtype, "
                f"{x.dtype}, got shape {jnp.shape(value)} and dtype {jnp.result_type(value)}."
            )
        return value

    return checked


@eqx.filter_jit
def entropy(x: ArrayLike, a: ArrayLike | None = None, *, bandwidth: ArrayLike) -> Float[Array, ""]:
    r"""The entropy $\int \rho \log \rho$ of particles, each smoothed to a Gaussian where the
    density is evaluated (Carrillo, Craig and Patacchini 2019, arXiv:1709.09195),

    $$\sum_i a_i \log \sum_j a_j N(x_i;\, x_j, h^2 I).$$

    Its gradient flow, `gradient_flow(lambda x: entropy(x, bandwidth=h), x)`, spreads particles as
    the heat equation spreads densities; with `potential_energy` it is that of Fokker-Planck. The
    `bandwidth` h is to be above the distance of neighbours and below the detail of the density:
    where it is not, particles neither see each other nor resolve it.

    **Arguments:**

    - `x`: the particles, shape (n, ...).
    - `a`: their masses, shape (n,); None is uniform of total 1. One of mass zero is not seen.
    - `bandwidth`: the standard deviation h, in the unit of the particles, positive.

    **Returns:** the negative of the entropy as physicists sign it: low where particles are apart.

    **Raises:** `ValueError` for wrong shapes, dtypes and types.
    """
    x = batch(x, "x")
    masses, points = shares(a, x), vectors(x)
    width = positive_number(bandwidth, "bandwidth", x.dtype)
    alive = masses > 0
    log_masses = jnp.where(alive, jnp.log(jnp.where(alive, masses, 1)), -jnp.inf)
    exponents = -0.5 * SqEuclidean().pairwise(points, points) / jnp.square(width)
    log_densities = jax.nn.logsumexp(exponents + log_masses[None, :], axis=1)
    constant = points.shape[1] * (0.5 * math.log(2 * math.pi) + jnp.log(width))
    return jnp.sum(masses * (log_densities - constant))
