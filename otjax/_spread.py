"""Points and masses laid out over several devices by rows."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, ArrayLike, Float

from ._arrays import float_array


def spread_rows(
    x: ArrayLike, a: ArrayLike | None = None, *, sharding: NamedSharding
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Points and their masses, divided by rows over the devices of a mesh. Where the devices are no
    divisor of their number, as JAX wants it, points of mass zero fill up, which change no output.

    **Arguments:**

    - `x`: the points, shape (n, d).
    - `a`: their masses, shape (n,); `None` is uniform of total 1.
    - `sharding`: by the first axis, such as `NamedSharding(mesh, PartitionSpec("data"))`.

    **Returns:** the points, and the masses, of the least number of rows that can be divided.

    **Raises:** `ValueError` for other arguments, and for a sharding of more axes than the first.
    """
    points = float_array(x, "x", "n d")
    num = points.shape[0]
    masses = jnp.full((num,), 1 / num, points.dtype) if a is None else float_array(a, "a", "points")
    if masses.shape != (num,):
        raise ValueError(
            f"`a` must have one mass for each point, shape ({num},), got {masses.shape}."
        )
    if not isinstance(sharding, NamedSharding) or len(sharding.spec) != 1:
        raise ValueError(
            "`sharding` must divide the first axis and no other, as does "
            f'`NamedSharding(mesh, PartitionSpec("data"))`, got {sharding!r}.'
        )
    names = sharding.spec[0]
    names = () if names is None else (names,) if isinstance(names, str) else names
    parts = 1
    for name in names:
        parts *= sharding.mesh.shape[name]
    missing = -num % parts
    points = jnp.pad(points, ((0, missing), (0, 0)), mode="edge")
    masses = jnp.pad(masses.astype(points.dtype), (0, missing))
    return jax.device_put(points, sharding), jax.device_put(masses, sharding)
