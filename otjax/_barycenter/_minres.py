"""Minimal residuals, for systems that are symmetric and neither definite nor regular."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .._varying import while_loop


class _State(eqx.Module):
    """The names are those of the paper."""

    x: Float[Array, "..."]
    r1: Float[Array, "..."]
    r2: Float[Array, "..."]
    y: Float[Array, "..."]
    w: Float[Array, "..."]
    w2: Float[Array, "..."]
    oldb: Float[Array, ""]
    beta: Float[Array, ""]
    dbar: Float[Array, ""]
    epsln: Float[Array, ""]
    phibar: Float[Array, ""]
    cs: Float[Array, ""]
    sn: Float[Array, ""]
    step: Int[Array, ""]


def minimal_residuals(
    mv: Callable[[Float[Array, "..."]], Float[Array, "..."]],
    rhs: Float[Array, "..."],
    preconditioner: Float[Array, "..."],
    *,
    tolerance: float,
    max_steps: int,
) -> Float[Array, "..."]:
    """Solves `mv(x) = rhs` from `x = 0` for a symmetric `mv`, on arrays of any shape (Paige and
    Saunders 1975, doi:10.1137/0712047). `preconditioner` is a diagonal, not negative.

    Where `mv` is singular and `rhs` is in its range, x is a solution; which one is not said.
    """
    inner = lambda u, v: jnp.sum(u * v)
    safe = lambda number: jnp.where(number == 0, 1, number)
    y = preconditioner * rhs
    beta1 = jnp.sqrt(jnp.maximum(inner(rhs, y), 0))
    eps = jnp.finfo(rhs.dtype).eps
    zero, one = jnp.zeros_like(beta1), jnp.ones_like(beta1)
    nothing = jnp.zeros_like(rhs)
    start = _State(
        nothing, rhs, rhs, y, nothing, nothing, zero, beta1, zero, zero, beta1, -one, zero,
        jnp.zeros((), jnp.int32),
    )  # fmt: skip

    def unfinished(state: _State) -> Array:
        # Lanczos ends where the next vector is but rounding.
        going = (state.phibar > tolerance * beta1) & (state.beta > 10 * eps * beta1)
        return going & (state.step < max_steps)

    def body(state: _State) -> _State:
        v = state.y / state.beta
        y = mv(v) - jnp.where(state.step > 0, state.beta / safe(state.oldb), 0) * state.r1
        alfa = inner(v, y)
        y = y - alfa / state.beta * state.r2
        r2 = y
        y = preconditioner * y
        beta = jnp.sqrt(jnp.maximum(inner(r2, y), 0))
        oldeps = state.epsln
        delta = state.cs * state.dbar + state.sn * alfa
        gbar = state.sn * state.dbar - state.cs * alfa
        gamma = jnp.maximum(jnp.hypot(gbar, beta), eps)
        cs, sn = gbar / gamma, beta / gamma
        w = (v - oldeps * state.w2 - delta * state.w) / gamma
        return _State(
            x=state.x + cs * state.phibar * w,
            r1=state.r2,
            r2=r2,
            y=y,
            w=w,
            w2=state.w,
            oldb=state.beta,
            beta=beta,
            dbar=-state.cs * beta,
            epsln=state.sn * beta,
            phibar=sn * state.phibar,
            cs=cs,
            sn=sn,
            step=state.step + 1,
        )

    return while_loop(unfinished, body, start).x
