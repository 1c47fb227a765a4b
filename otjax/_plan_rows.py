"""Some rows of a plan, made without the others."""

import functools as ft

import jax
import lineax as lx
from jaxtyping import Array, Float, Int

from ._geometry import AbstractPlan
from ._geometry._cost_matrix import DensePlan
from ._geometry._point_cloud import RecomputedPlan
from ._operators import RankOne, TransportPlan
from ._reduction import Pairs


@ft.singledispatch
def rows(
    plan: AbstractPlan | lx.AbstractLinearOperator, i: Int[Array, " k"]
) -> Float[Array, "k m"]:
    """The rows `i` of a plan. Of one that is known by its products alone, those with unit
    vectors."""
    if isinstance(plan, AbstractPlan):
        shape = jax.eval_shape(plan.as_matrix)
        return plan.T.mv(jax.nn.one_hot(i, shape.shape[0], dtype=shape.dtype).T).T
    out = plan.out_structure()
    units = jax.nn.one_hot(i, out.shape[0], dtype=out.dtype)
    return jax.vmap(plan.T.mv)(units)


@rows.register(DensePlan)
def _(plan: DensePlan, i: Int[Array, " k"]) -> Float[Array, "k m"]:
    return plan.matrix[:, i].T if plan.transposed else plan.matrix[i]


@rows.register(RecomputedPlan)
def _(plan: RecomputedPlan, i: Int[Array, " k"]) -> Float[Array, "k m"]:
    pairs = Pairs(plan.pairs.x[i], plan.pairs.y, plan.pairs.cost)
    some = RecomputedPlan(plan.engine, pairs, plan.f[i], plan.g, plan.epsilon, plan.dtype)
    return some.as_matrix()


@rows.register(TransportPlan)
def _(plan: TransportPlan, i: Int[Array, " k"]) -> Float[Array, "k m"]:
    return plan.a[i][:, None] * rows(plan.density, i) * plan.b[None, :]


@rows.register(RankOne)
def _(plan: RankOne, i: Int[Array, " k"]) -> Float[Array, "k m"]:
    return plan.left[i][:, None] * plan.right[None, :]


@rows.register(lx.AddLinearOperator)
def _(plan: lx.AddLinearOperator, i: Int[Array, " k"]) -> Float[Array, "k m"]:
    return rows(plan.operator1, i) + rows(plan.operator2, i)
