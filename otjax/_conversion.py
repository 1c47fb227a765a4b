r"""Potentials of other conventions, for those who come from another library.

Here a plan is $P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \epsilon)$, and so it is in GeomLoss.
Where it is $\exp((f_i + g_j - C_{ij}) / \epsilon)$, as in OTT-JAX, or $u_i \exp(-C_{ij} / \epsilon)
v_j$ with $f = \epsilon \log u$, as in POT, the logarithms of the masses are in the potentials.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._arrays import float_array, float_scalar


def without_masses(
    f: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, *, epsilon: ArrayLike
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    r"""Potentials as they are here, an `init` for `solve`, of those of a plan
    $\exp((f_i + g_j - C_{ij}) / \epsilon)$.

    **Arguments:**

    - `f`, `g`: potentials that hold the masses, in the unit of the cost, shapes (n,) and (m,):
        OTT-JAX's; `epsilon` times POT's.
    - `a`, `b`: the masses, shapes (n,) and (m,).
    - `epsilon`: what they were solved at, in the unit of the cost.

    **Returns:** $f - \epsilon \log a$ and $g - \epsilon \log b$; 0 for points of mass zero, whose
    potentials the others decide.

    **Raises:** `ValueError` for shapes and dtypes that do not fit.
    """
    sides = _sides(f, g, a, b)
    epsilon = float_scalar(epsilon, "epsilon", sides[0][0].dtype)
    f, g = (_subtract_log(potential, masses, epsilon) for potential, masses in sides)
    return f, g


def with_masses(
    f: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike, *, epsilon: ArrayLike
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    r"""Potentials of a plan $\exp((f_i + g_j - C_{ij}) / \epsilon)$ of those that are here: the
    inverse of `without_masses`.

    **Arguments:**

    - `f`, `g`: the potentials of a solution, shapes (n,) and (m,).
    - `a`, `b`, `epsilon`: as there.

    **Returns:** $f + \epsilon \log a$ and $g + \epsilon \log b$, $-\infty$ for points of mass zero.

    **Raises:** `ValueError` for shapes and dtypes that do not fit.
    """
    sides = _sides(f, g, a, b)
    epsilon = float_scalar(epsilon, "epsilon", sides[0][0].dtype)
    f, g = (_add_log(potential, masses, epsilon) for potential, masses in sides)
    return f, g


@eqx.filter_jit
def _subtract_log(
    potential: Float[Array, " n"], masses: Float[Array, " n"], epsilon: Float[Array, ""]
) -> Float[Array, " n"]:
    there = masses > 0
    potential = jnp.where(there, potential, 0)
    return potential - epsilon * jnp.log(jnp.where(there, masses, 1))


@eqx.filter_jit
def _add_log(
    potential: Float[Array, " n"], masses: Float[Array, " n"], epsilon: Float[Array, ""]
) -> Float[Array, " n"]:
    there = masses > 0
    return jnp.where(there, potential + epsilon * jnp.log(jnp.where(there, masses, 1)), -jnp.inf)


def _sides(
    f: ArrayLike, g: ArrayLike, a: ArrayLike, b: ArrayLike
) -> list[tuple[Float[Array, " n"], Float[Array, " n"]]]:
    """Each potential with its masses, of one dtype."""
    sides = []
    for (name, potential), (of, masses) in (
        (("f", f), ("a", a)),
        (("g", g), ("b", b)),
    ):
        potential = float_array(potential, name, "points")
        masses = float_array(masses, of, "points").astype(potential.dtype)
        if potential.shape != masses.shape:
            raise ValueError(
                f"`{name}` and `{of}` must have one number for each point, got shapes "
                f"{potential.shape} and {masses.shape}."
            )
        sides.append((potential, masses))
    return sides
