"""The assignment problem: the cheapest one-to-one pairing, exact, with proof."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from ._arrays import constant, float_array
from ._augmenting import augmenting_paths
from ._control import in_turn
from ._couplings import matched_interpolation
from ._results import RESULTS


class Assignment(eqx.Module):
    r"""The cheapest assignment of rows to columns, with its proof.

    - `columns`: row $i$ goes to `columns[i]`, shape (n,); -1 for rows that got none, which
        happens only if the result is not `successful`.
    - `value`: its cost. Differentiable: the gradient is the matrix of the permutation, and second
        derivatives are 0. It is `inf` if there is none, and NaN for costs that are not numbers,
        with gradient 0 either way.
    - `potentials`: $(f, g)$, shapes (n,) and (m,), with $f_i + g_j \le C_{ij}$ everywhere and
        equality on the assignment, up to rounding: $\sum_i f_i + \sum_j g_j$ is its cost, and no
        other can have less. If n < m then $g \le 0$, and 0 for columns without a row. They carry
        no derivative, as they are not unique.
    - `result`: `successful`, `infeasible` or `nonfinite_input`.
    """

    columns: Int[Array, " n"]
    value: Float[Array, ""]
    potentials: tuple[Float[Array, " n"], Float[Array, " m"]]
    result: RESULTS

    def interpolate(
        self, x: ArrayLike, y: ArrayLike, t: ArrayLike
    ) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        """The measure at time `t` of the way from the points of the rows (0) to those of their
        columns (1): points and masses, shapes (n, d) and (n,), the masses uniform.

        **Raises:** `ValueError` for points that do not fit.
        """
        return matched_interpolation(x, y, self.columns, t)


@eqx.filter_jit
def assignment(cost: ArrayLike) -> Assignment:
    r"""Solves $\min_\sigma \sum_i C_{i \sigma(i)}$ over the ways to give each row a column of its
    own, as `scipy.optimize.linear_sum_assignment` does; here jitted, batched and differentiable.

    Exact up to rounding of the potentials, in $O(n^2 m)$ at worst, by shortest augmenting paths.
    Under `jax.vmap` a CPU takes the problems one after another, each no longer than it needs.

    **Arguments:**

    - `cost`: the costs of pairs, of any sign, shape (n, m) with n <= m; `inf` forbids a pair.

    **Returns:** an `Assignment`. Never raises for values: look at `result`.

    **Raises:** `ValueError` unless `cost` is a floating array with two axes and n <= m.

    ??? cite "Reference"

        ```bibtex
        @article{jonker1987shortest,
            author = {Jonker, Roy and Volgenant, Ton},
            title = {A shortest augmenting path algorithm for dense and sparse linear assignment
                     problems},
            journal = {Computing},
            volume = {38},
            pages = {325--340},
            year = {1987},
        }
        ```
    """
    cost = float_array(cost, "cost", "n m")
    n, m = cost.shape
    if n > m:
        raise ValueError(
            f"`cost` must have a column for each row, got shape {cost.shape}; pass its transpose, "
            "and each column will be given a row."
        )
    # Potentials are sums of up to n differences of costs, and must not overflow.
    largest = jnp.finfo(cost.dtype).max / (4 * m)
    valid = jnp.all((jnp.abs(cost) <= largest) | (cost == jnp.inf))
    cost = jnp.where(valid, cost, 0)
    columns, g, feasible = in_turn(augmenting_paths, constant(cost))()
    f = jnp.min(constant(cost) - g[None, :], axis=1)
    if n == m:
        # A constant is open: both have one mean, as in the potentials of entropic problems.
        shift = 0.5 * (jnp.mean(f) - jnp.mean(g))
        f, g = f - shift, g + shift
    paid = cost[jnp.arange(n), columns]
    value = jnp.where(feasible, jnp.sum(jnp.where(feasible, paid, 0)), jnp.inf)
    result = RESULTS.where(feasible, RESULTS.successful, RESULTS.infeasible)
    return Assignment(
        columns=jnp.where(valid, columns, -1),
        value=jnp.where(valid, value, jnp.nan),
        potentials=(jnp.where(feasible, f, 0), jnp.where(feasible, g, 0)),
        result=RESULTS.where(valid, result, RESULTS.nonfinite_input),
    )
