"""Steps of adaptive length, by diffrax, which is needed for nothing else."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from .._arrays import positive_number


class Tsit5(eqx.Module):
    """The method of Tsitouras, of order 5, by `diffrax`, with steps as long as its error estimate
    allows. All samples take the same steps. Needs `otjax[diffrax]`.

    `num_steps` of `integrate` sets the first step. Derivatives go through it backward only. Where
    `max_steps` do not reach the end the result is `RESULTS.max_steps_reached`, and the samples are
    infinite.
    """

    rtol: Float[Array, ""]
    atol: Float[Array, ""]
    max_steps: int = eqx.field(static=True)

    def __init__(self, *, rtol: ArrayLike = 1e-4, atol: ArrayLike = 1e-4, max_steps: int = 4096):
        """**Arguments:**

        - `rtol`, `atol`: the error of a step, relative to the samples and in their unit, as a root
            mean square. Single precision of a network supports about the default.
        - `max_steps`: at most so many, those that were refused included.
        """
        self.rtol, self.atol = positive_number(rtol, "rtol"), positive_number(atol, "atol")
        if not isinstance(max_steps, int) or max_steps < 1:
            raise ValueError(f"`max_steps` must be a whole number, at least 1, got {max_steps!r}.")
        self.max_steps = max_steps

    def carry(
        self,
        rate: Callable[[Float[Array, ""], PyTree], PyTree],
        state: PyTree,
        times: tuple[Float[Array, ""], Float[Array, ""]],
        first_step: Float[Array, ""],
    ) -> tuple[PyTree, Int[Array, ""], Bool[Array, ""]]:
        """The state at the end, how often the rate was evaluated, and whether the end was reached.

        **Raises:** `ImportError` without diffrax.
        """
        try:
            import diffrax  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("`Tsit5()` needs diffrax: pip install otjax[diffrax].") from error
        dtype = times[0].dtype
        control = diffrax.PIDController(self.rtol.astype(dtype), self.atol.astype(dtype))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(lambda t, y, _: rate(t, y)),
                diffrax.Tsit5(),
                *times,
                first_step,
                state,
                stepsize_controller=control,
                max_steps=self.max_steps,
                throw=False,
            )
        reached = found.result == diffrax.RESULTS.successful
        # Six evaluations a step: its last one is the first of the next.
        evaluations = 1 + 6 * jnp.asarray(found.stats["num_steps"], jnp.int32)
        return jax.tree.map(lambda leaf: leaf[-1], found.ys), evaluations, reached
