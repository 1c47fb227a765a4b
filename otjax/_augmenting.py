r"""The assignment problem by shortest augmenting paths (Jonker and Volgenant 1987,
doi:10.1007/BF02278710; Crouse 2016, doi:10.1109/TAES.2016.140952).

Each column $j$ has a price $v_j \le 0$ on top of its cost, that is, costs $C_{ij} - v_j$. Rows take
the columns that are cheapest for them as far as that goes; each row that is left then looks for the
cheapest way to have others move aside, by Dijkstra's algorithm. A step does a few operations on
whole rows of costs, each of them one pass, and moves a few numbers; nothing else is of size n x m.
"""

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


# A minimum over m numbers is taken over m / FOLD vectors and then over what is left: the first is
# work for vector instructions, the second a chain in which each comparison waits for the last.
FOLD = 16


def augmenting_paths(
    cost: Float[Array, "n m"],
) -> tuple[Int[Array, " n"], Float[Array, " m"], Bool[Array, ""]]:
    """Solves the assignment problem of `cost`, n <= m, whose entries are finite or `inf`.

    **Returns:** the column of each row (-1 for none), the potential of each column (if n < m, 0 for
    columns without a row and not positive for the others), and whether each row has a column.
    """
    n, m = cost.shape
    row_has_column = jnp.min(cost, axis=1) < jnp.inf
    cost = jnp.where(row_has_column[:, None], cost, 0)
    if n == m:
        row_of, v = _reduce_columns(cost)
    else:
        row_of, v = jnp.full((m,), -1, jnp.int32), jnp.zeros((m,), cost.dtype)
    # Forbidden columns make it a multiple of what is taken at once.
    more = -m % FOLD
    cost = jnp.pad(cost, ((0, 0), (0, more)), constant_values=jnp.inf)
    row_of, v = jnp.pad(row_of, (0, more), constant_values=-1), jnp.pad(v, (0, more))
    row_of, v = _reduce_rows(cost, row_of, v)
    column_of, v, _ = _augment(cost, row_of, v)
    return column_of, v[:m], jnp.all(row_has_column & (column_of >= 0))


def permutation_from(
    cost: Float[Array, "n n"], v: Float[Array, " n"]
) -> tuple[Int[Array, " n"], Float[Array, " n"], Bool[Array, ""], Int[Array, ""]]:
    """The same for a square `cost`, from potentials of the columns that are nearly right; also the
    number of rows that were looked at."""
    n = cost.shape[0]
    row_has_column = jnp.min(cost, axis=1) < jnp.inf
    cost = jnp.where(row_has_column[:, None], cost, 0)
    more = -n % FOLD
    cost = jnp.pad(cost, ((0, 0), (0, more)), constant_values=jnp.inf)
    row_of, v = jnp.full((n + more,), -1, jnp.int32), jnp.pad(v, (0, more))
    column_of, v, visits = _augment(cost, row_of, v)
    return column_of, v[:n], jnp.all(row_has_column & (column_of >= 0)), visits


def _reduce_columns(cost: Float[Array, "n n"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Gives columns to rows for which they are cheapest, at the price at which the second best
    column of that row costs as much (column reduction and reduction transfer)."""
    index = jnp.arange(cost.shape[0], dtype=jnp.int32)
    least, cheapest = jnp.min(cost, axis=0), jnp.argmin(cost, axis=0).astype(jnp.int32)
    v = _or_zero(least)
    column_of = jnp.full_like(index, -1).at[cheapest].max(jnp.where(least < jnp.inf, index, -1))
    others = jnp.where(column_of[:, None] == index[None, :], jnp.inf, cost - v[None, :])
    second = _or_zero(jnp.min(others, axis=1))
    taken = column_of[cheapest] == index
    return jnp.where(taken, cheapest, -1), v - jnp.where(taken, second[cheapest], 0)


def _reduce_rows(
    cost: Float[Array, "n m"], row_of: Int[Array, " m"], v: Float[Array, " m"]
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    """Rows without a column take their cheapest, at the price at which their second best costs as
    much; the row that had it is next (augmenting row reduction).

    This is an auction. It may go on for long, so there are as many turns as rows.
    """
    n = cost.shape[0]
    waiting, count = _rows_without_column(_column_of(row_of, n))

    def unfinished(state):
        _, _, _, place, turn = state
        return (place < count) & (turn < n)

    def turn(state):
        row_of, v, row, place, turn = state
        reduced = cost[row] - v
        first = argmin_folded(reduced)
        others = reduced.at[first].set(jnp.inf)
        second = argmin_folded(others)
        # Where no other column is allowed there is nothing to outbid.
        price = v[first] - _or_zero(others[second] - reduced[first])
        outbid = price < v[first]
        tied = others[second] == reduced[first]
        column = jnp.where(tied & (row_of[first] >= 0), second, first)
        displaced = row_of[column]
        goes_on = outbid & (displaced >= 0)
        place = jnp.where(goes_on, place, place + 1)
        next_row = jnp.where(goes_on, displaced, waiting[jnp.minimum(place, n - 1)])
        return row_of.at[column].set(row), v.at[first].set(price), next_row, place, turn + 1

    zero = jnp.zeros((), jnp.int32)
    row_of, v, *_ = lax.while_loop(unfinished, turn, (row_of, v, waiting[0], zero, zero))
    return row_of, v


def _augment(
    cost: Float[Array, "n m"], row_of: Int[Array, " m"], v: Float[Array, " m"]
) -> tuple[Int[Array, " n"], Float[Array, " m"], Int[Array, ""]]:
    """Gives each row that is left a column, along a shortest path of rows that move aside; also
    says how many rows were visited."""
    column_of = _column_of(row_of, cost.shape[0])
    waiting, count = _rows_without_column(column_of)

    def unfinished(state):
        *_, place, blocked = state
        return (place < count) & ~blocked

    def augment(state):
        column_of, row_of, v, visits, place, _ = state
        end, length, distance, before, reached = _shortest_path(cost, row_of, v, waiting[place])
        blocked = ~(length < jnp.inf)
        v = jnp.where(reached & ~blocked, v + distance - length, v)
        column_of, row_of = _move_aside(waiting[place], end, before, column_of, row_of, blocked)
        visits = visits + 1 + jnp.sum(reached, dtype=jnp.int32)
        return column_of, row_of, v, visits, place + 1, blocked

    zero = jnp.zeros((), jnp.int32)
    start = (column_of, row_of, v, zero, zero, jnp.array(False))
    column_of, _, v, visits, *_ = lax.while_loop(unfinished, augment, start)
    return column_of, v, visits


def _shortest_path(
    cost: Float[Array, "n m"],
    row_of: Int[Array, " m"],
    v: Float[Array, " m"],
    start: Int[Array, ""],
) -> tuple[
    Int[Array, ""], Float[Array, ""], Float[Array, " m"], Int[Array, " m"], Bool[Array, " m"]
]:
    """Dijkstra's algorithm from the row `start` to the nearest column without a row.

    **Returns:** that column and its distance, `inf` if there is none; the distance of each column,
    the row before it on its path, and whether its own row was visited.
    """
    free = row_of < 0
    tiny, eps = jnp.finfo(v.dtype).tiny, jnp.finfo(v.dtype).eps

    def nearest_of(distance, open_v):
        # Of equally near columns those without a row come first, since they end the search.
        order = jnp.where(free, distance, distance + (eps * distance + tiny))
        order = jnp.where(open_v == -jnp.inf, jnp.inf, order)
        nearest = argmin_folded(order)
        return nearest, jnp.where(order[nearest] < jnp.inf, distance[nearest], jnp.inf)

    def unfinished(state):
        nearest, length, *_ = state
        return (row_of[nearest] >= 0) & (length < jnp.inf)

    def visit(state):
        nearest, length, open_v, distance, before = state
        row = row_of[nearest]
        # A price of -inf: columns whose rows were visited are not reached again.
        open_v = open_v.at[nearest].set(-jnp.inf)
        reached = cost[row] - open_v - (cost[row, nearest] - v[nearest] - length)
        distance = jnp.minimum(distance, reached)
        before = jnp.where(reached == distance, row, before)
        return *nearest_of(distance, open_v), open_v, distance, before

    distance = cost[start] - v
    distance -= jnp.min(distance)
    state = (*nearest_of(distance, v), v, distance, jnp.full_like(row_of, start))
    end, length, open_v, distance, before = lax.while_loop(unfinished, visit, state)
    return end, length, distance, before, open_v == -jnp.inf


def _move_aside(
    start: Int[Array, ""],
    end: Int[Array, ""],
    before: Int[Array, " m"],
    column_of: Int[Array, " n"],
    row_of: Int[Array, " m"],
    blocked: Bool[Array, ""],
) -> tuple[Int[Array, " n"], Int[Array, " m"]]:
    """Each row on the path to `end` takes the column after it."""

    def unfinished(state):
        done, *_ = state
        return ~done

    def move(state):
        _, column, column_of, row_of = state
        row = before[column]
        left = column_of[row]
        column_of, row_of = column_of.at[row].set(column), row_of.at[column].set(row)
        return row == start, left, column_of, row_of

    _, _, column_of, row_of = lax.while_loop(unfinished, move, (blocked, end, column_of, row_of))
    return column_of, row_of


def _or_zero(cost: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(cost < jnp.inf, cost, 0)


def _column_of(row_of: Int[Array, " m"], n: int) -> Int[Array, " n"]:
    """The column that each row has, -1 for none."""
    columns = jnp.arange(row_of.shape[0], dtype=jnp.int32)
    rows = jnp.where(row_of >= 0, row_of, n)
    return jnp.full((n,), -1, jnp.int32).at[rows].set(columns, mode="drop")


def _rows_without_column(
    column_of: Int[Array, " n"],
) -> tuple[Int[Array, " n"], Int[Array, ""]]:
    """These rows first, and how many they are."""
    has_one = column_of >= 0
    return jnp.argsort(has_one).astype(jnp.int32), jnp.sum(~has_one, dtype=jnp.int32)


def argmin_folded(values: Float[Array, " m"]) -> Int[Array, ""]:
    """The index of the least of m numbers, none NaN, where m is a multiple of `FOLD`."""
    folded = values.reshape(FOLD, -1)
    least = folded
    while (half := least.shape[0] // 2) > 0:
        least = jnp.minimum(least[:half], least[half:])
    place = jnp.argmin(least[0]).astype(jnp.int32)
    return jnp.argmin(folded[:, place]).astype(jnp.int32) * folded.shape[1] + place
