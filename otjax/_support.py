r"""Whether a matrix with these zeros can have these marginals, proven from a scaling of it.

Rows $I$ put all their mass into the columns $J$ in which they have an entry. If $a(I) > b(J)$ no
matrix of these zeros has the marginals (Hall's condition). If $a(I) = b(J)$ and other rows have
entries in $J$ too, then there is no room for them: the matrix lacks total support, and scaling it
drives those entries to zero forever (Sinkhorn and Knopp 1967, doi:10.2140/pjm.1967.21.343). What a
finite number of steps leaves of a scaling tells where to look for such sets; both are then proven.
"""

import math

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ._control import cond_any
from ._varying import fori_loop


def overfull(
    allowed: Bool[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    f: Float[Array, " n"],
) -> Bool[Array, ""]:
    """Whether some rows have more mass than all columns in which they have an entry.

    Such rows are scaled up without end, so they are among the first in the order of `f`.
    """
    order = jnp.argsort(-f)
    used = lax.cummax(allowed[order].astype(jnp.int8), axis=0)
    room = _product(used.astype(b.dtype), b)
    return jnp.any(jnp.cumsum(a[order]) - room > _rounding(a))


def lacks_total_support(
    allowed: Bool[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    plan: Float[Array, "n m"],
    error: Float[Array, ""],
) -> Bool[Array, ""]:
    """Whether entries that are allowed must be zero in every plan.

    In a plan whose marginals have the L1 error `error` together, such entries sum to no more than
    that. An entry above it is certain to be in use: another may take mass off it. So an entry
    (i, j) may be positive if a way leads back from column j to row i, by certain entries against
    their direction and by allowed ones along it. If none does, the rows on these ways are the set
    that shows it.
    """
    n, m = allowed.shape
    error = error + _rounding(a)
    certain = allowed & (plan > error)
    doubtful = allowed & ~certain
    has_zeros = jnp.any(~allowed & (a > 0)[:, None] & (b > 0)[None, :])

    def search() -> Bool[Array, ""]:
        follows = lambda left, right: _product(left.astype(a.dtype), right.astype(a.dtype)) > 0
        reach = follows(allowed, certain.T) | jnp.eye(n, dtype=bool)
        twice = lambda _, reach: follows(reach, reach)
        reach = fori_loop(math.ceil(math.log2(n)) if n > 1 else 0, twice, reach)
        rows = follows(certain.T, reach)
        columns = follows(rows, allowed) | jnp.eye(m, dtype=bool)
        spare = _product(columns.astype(b.dtype), b) - _product(rows.astype(a.dtype), a)
        full = jnp.abs(spare) <= _rounding(a)
        return jnp.any(doubtful & ~rows.T & full[None, :])

    return cond_any(jnp.any(doubtful) & has_zeros, search, lambda: jnp.array(False))


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def _rounding(a: Float[Array, " n"]) -> Float[Array, ""]:
    """Masses that differ by less than this are the same."""
    return 32 * jnp.finfo(a.dtype).eps * jnp.sum(a)
