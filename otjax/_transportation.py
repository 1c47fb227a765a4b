r"""The transportation problem by successive shortest paths (Busacker and Gowen 1960; Ahuja,
Magnanti and Orlin 1993, *Network Flows*, section 9.7), from potentials that are nearly right.

Columns have potentials $v_j$; a row's is what its cheapest column costs, $\min_j C_{ij} - v_j$.
Mass lies only where that minimum is attained. Each row that has mass left looks, by Dijkstra's
algorithm, for the cheapest way to a column that has room: others on the way move some of theirs
aside. A row is looked at as a whole, by a few operations of one pass each, so that the work is
proportional to the rows that are visited; from good potentials these are few.

The pairs that have mass form a forest, held as a list of edges. Moving along them costs nothing, so
a way that reaches a tree reaches all of it before it goes on. It enters no tree twice, and a pair
that it adds joins two trees. So the end is a vertex of the polytope of plans: at most n + m - 1
pairs, and a permutation where all masses are equal.
"""

from typing import NamedTuple

import jax.lax as lax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._augmenting import argmin_folded, FOLD


class Shipment(NamedTuple):
    """Where mass was sent.

    - `rows`, `columns`, `masses`: the pairs, n + m of them, of which those that are not in use
        have the row and the column -1 and the mass 0.
    - `v`: the potentials of the columns, that prove the plan to be the cheapest.
    - `left`: the mass of each row that found no way.
    - `visits`: the number of rows that were looked at.
    """

    rows: Int[Array, " k"]
    columns: Int[Array, " k"]
    masses: Float[Array, " k"]
    v: Float[Array, " m"]
    left: Float[Array, " n"]
    visits: Int[Array, ""]


class _Flow(NamedTuple):
    """The mass that was sent so far, by edges, and what is left."""

    rows: Int[Array, " k"]
    columns: Int[Array, " k"]
    masses: Float[Array, " k"]
    v: Float[Array, " m"]
    left: Float[Array, " n"]
    room: Float[Array, " m"]
    blocked: Bool[Array, " n"]  # rows from which no way leads anywhere
    visits: Int[Array, ""]


class _Search(NamedTuple):
    """Dijkstra's algorithm, at the row that is to be looked at next."""

    row: Int[Array, ""]
    through: Int[Array, ""]  # the column through which it was reached
    nearest: Int[Array, ""]  # the last column that was reached
    length: Float[Array, ""]  # how far the way to both is
    waiting: Bool[Array, " k"]  # edges of which one end was reached and the other was not
    edge_to_row: Int[Array, " n"]  # the edge along which each row was reached
    row_before: Int[Array, " m"]  # the row before each column
    edge_before: Int[Array, " m"]  # the edge between them, -1 if there is none
    distance: Float[Array, " m"]
    open_v: Float[Array, " m"]  # v, and -inf where a column was reached
    ended: Bool[Array, ""]
    visits: Int[Array, ""]


def ship(
    cost: Float[Array, "n m"],
    a: Float[Array, " n"],
    b: Float[Array, " m"],
    v: Float[Array, " m"],
) -> Shipment:
    """Sends the masses `a` of the rows to columns that have room `b`, at the least cost.

    **Arguments:**

    - `cost`: finite, or `inf` for pairs that are not allowed.
    - `a`, `b`: the masses.
    - `v`: potentials of the columns to start from, finite; the better, the sooner it ends.
    """
    n, m = cost.shape
    more = -m % FOLD
    cost = jnp.pad(cost, ((0, 0), (0, more)), constant_values=jnp.inf)
    start = _Flow(
        rows=jnp.full((n + m,), -1, jnp.int32),
        columns=jnp.full((n + m,), -1, jnp.int32),
        masses=jnp.zeros((n + m,), cost.dtype),
        v=jnp.pad(v, (0, more)),
        left=a,
        room=jnp.pad(b, (0, more)),
        blocked=jnp.zeros((n,), bool),
        visits=jnp.zeros((), jnp.int32),
    )
    unfinished = lambda flow: jnp.any((flow.left > 0) & ~flow.blocked) & jnp.any(flow.room > 0)
    end = lax.while_loop(unfinished, lambda flow: _send(cost, flow), start)
    return Shipment(end.rows, end.columns, end.masses, end.v[:m], end.left, end.visits)


def _send(cost: Float[Array, "n m"], flow: _Flow) -> _Flow:
    """Sends what one row has left along a shortest way, or as much of it as can go that way."""
    start = _last((flow.left > 0) & ~flow.blocked)
    search = _shortest_way(cost, flow, start)
    blocked = ~(search.length < jnp.inf)
    reached = (search.open_v == -jnp.inf) & ~blocked
    end, none = search.nearest, jnp.array(-1, jnp.int32)

    def back(column: Int[Array, ""]) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
        """The row before a column, the edge along which it was reached, the column before it; -1
        for the last two at the start."""
        row = search.row_before[column]
        edge = jnp.where(row == start, none, search.edge_to_row[row])
        return row, edge, jnp.where(row == start, none, flow.columns[edge])

    # Each of three walks back from the end: how much can move aside, its leaving, its coming.
    def narrow(state):
        column, amount = state
        _, edge, column = back(column)
        return column, jnp.where(edge < 0, amount, jnp.minimum(amount, flow.masses[edge]))

    def leave(state):
        column, masses = state
        _, edge, column = back(column)
        return column, masses.at[edge].add(jnp.where(edge < 0, 0, -amount))

    def come(state):
        column, rows, columns, masses = state
        row, _, next_column = back(column)
        edge = search.edge_before[column]
        edge = jnp.where(edge < 0, _last(rows < 0), edge)
        rows, columns = rows.at[edge].set(row), columns.at[edge].set(column)
        return next_column, rows, columns, masses.at[edge].add(amount)

    unfinished = lambda state: state[0] >= 0
    first = jnp.where(blocked, none, end)
    amount = jnp.minimum(flow.left[start], flow.room[end])
    _, amount = lax.while_loop(unfinished, narrow, (first, amount))
    amount = jnp.where(blocked, 0, amount)
    _, masses = lax.while_loop(unfinished, leave, (first, flow.masses))
    in_use = masses > 0
    edges = jnp.where(in_use, flow.rows, -1), jnp.where(in_use, flow.columns, -1), masses
    _, rows, columns, masses = lax.while_loop(unfinished, come, (first, *edges))
    return _Flow(
        rows=rows,
        columns=columns,
        masses=masses,
        v=jnp.where(reached, flow.v + search.distance - search.length, flow.v),
        left=flow.left.at[start].add(-amount),
        room=flow.room.at[end].add(-amount),
        blocked=flow.blocked.at[start].set(blocked),
        visits=flow.visits + search.visits,
    )


def _shortest_way(cost: Float[Array, "n m"], flow: _Flow, start: Int[Array, ""]) -> _Search:
    """Dijkstra's algorithm from the row `start` to the nearest column that has room: `nearest`, at
    the distance `length`, which is infinite if there is none."""
    v = flow.v
    free = flow.room > 0
    tiny, eps = jnp.finfo(v.dtype).tiny, jnp.finfo(v.dtype).eps

    def row_waits(search: _Search) -> Bool[Array, ""]:
        edge = _last(search.waiting)
        return (edge >= 0) & (search.open_v[flow.columns[edge]] == -jnp.inf)

    def reach(search: _Search) -> _Search:
        """Reaches a column: along a waiting edge, or else the nearest."""
        edge = _last(search.waiting)
        along = edge >= 0
        # Of equally near columns those with room come first, since they end the search.
        order = jnp.where(free, search.distance, search.distance * (1 + eps) + tiny)
        order = jnp.where(search.open_v == -jnp.inf, jnp.inf, order)
        nearest = argmin_folded(order)
        length = jnp.where(order[nearest] < jnp.inf, search.distance[nearest], jnp.inf)
        column = jnp.where(along, flow.columns[edge], nearest)
        length = jnp.where(along, search.length, length)
        row = jnp.where(along, flow.rows[edge], search.row_before[column])
        ended = free[column] | ~(length < jnp.inf)
        others = (flow.columns == column) & (flow.rows != row)
        return search._replace(
            nearest=column,
            length=length,
            waiting=search.waiting.at[edge].set(False) | others,
            row_before=search.row_before.at[column].set(row),
            edge_before=search.edge_before.at[column].set(edge),
            distance=search.distance.at[column].set(length),
            open_v=search.open_v.at[column].set(jnp.where(ended, v[column], -jnp.inf)),
            ended=ended,
        )

    def next_row(search: _Search) -> _Search:
        search = lax.while_loop(lambda search: ~row_waits(search) & ~search.ended, reach, search)
        edge = _last(search.waiting)
        row, column = flow.rows[edge], flow.columns[edge]
        others = (flow.rows == row) & (flow.columns != column)
        reached = jnp.where(search.ended, flow.left.shape[0], row)
        return search._replace(
            row=row,
            through=column,
            waiting=search.waiting.at[edge].set(False) | others,
            edge_to_row=search.edge_to_row.at[reached].set(edge, mode="drop"),
        )

    def visit(search: _Search) -> _Search:
        row, column, length = search.row, search.through, search.length
        beyond = cost[row] - search.open_v - (cost[row, column] - v[column] - length)
        beyond = jnp.maximum(beyond, length)
        nearer = beyond < search.distance
        return next_row(
            search._replace(
                distance=jnp.where(nearer, beyond, search.distance),
                row_before=jnp.where(nearer, row, search.row_before),
                visits=search.visits + 1,
            )
        )

    distance = cost[start] - v
    least = jnp.min(distance)
    first = _Search(
        row=start,
        through=start,
        nearest=start,
        length=jnp.zeros((), v.dtype),
        waiting=flow.rows == start,
        edge_to_row=jnp.full(flow.left.shape, -1, jnp.int32),
        row_before=jnp.full(v.shape, start),
        edge_before=jnp.full(v.shape, -1, jnp.int32),
        distance=distance - jnp.where(least < jnp.inf, least, 0),
        open_v=v,
        ended=jnp.array(False),
        visits=jnp.ones((), jnp.int32),
    )
    return lax.while_loop(lambda search: ~search.ended, visit, next_row(first))


def _last(condition: Bool[Array, " k"]) -> Int[Array, ""]:
    """The last index at which it holds, -1 for none."""
    return jnp.max(jnp.where(condition, jnp.arange(condition.shape[0], dtype=jnp.int32), -1))
