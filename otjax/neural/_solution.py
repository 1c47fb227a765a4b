"""What the neural dual finds: a map, its inverse, potentials, and how good they are."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._arrays import points_like
from .._results import RESULTS
from ._frame import Frame
from ._methods import Map, Potential
from ._refinement import inverse, Refinement


class NeuralMap(eqx.Module):
    r"""A map that is the gradient of a network, and convex by construction where that is: then it
    is the optimal map for the squared distance to whatever it maps to (Brenier 1991).

    - `networks`: the potential and the predictor, in the coordinates of `frame`; in place of the
      `networks` of another call they go on from here.
    - `value`: the estimate of the squared distance $W_2^2$ by the dual, on samples that were not
      trained on; `value_error` its standard error.
    - `error`: the energy distance of the images from the target, relative to its bound: from 0 to
      1, and 0 only if the map is optimal. The square of it is estimated without bias.
    - `residual`: how far `transport(inverse(y))` is from y, the root mean square relative to that
      of y, in the frame: where it is not small the value is no bound.
    - `history`: the dual on each step's own batch, shape (max_steps,).
    - `result`: `successful` if `error` is within the tolerance.
    - `frame`: coordinates in which both measures have one mean and covariance.
    - `refinement`: how `inverse` improves on the predictor.
    """

    networks: tuple[Potential, Map]
    value: Float[Array, ""]
    value_error: Float[Array, ""]
    error: Float[Array, ""]
    residual: Float[Array, ""]
    history: Float[Array, " steps"]
    result: RESULTS
    frame: Frame
    refinement: Refinement

    @eqx.filter_jit
    def transport(self, x: ArrayLike) -> Float[Array, "k d"]:
        """The images of points of shape (k, d): the gradient of `potential`."""
        frame, slope = self.frame, jax.grad(self.networks[0])
        return jax.vmap(lambda x: frame.y_out(slope(frame.x_in(x))))(self._points(x, "x"))

    @eqx.filter_jit
    def inverse(self, y: ArrayLike) -> Float[Array, "k d"]:
        """Where points of shape (k, d) come from: the gradient of `conjugate`."""
        frame = self.frame
        return jax.vmap(lambda y: frame.x_out(self.inverse_in_frame(frame.y_in(y))))(
            self._points(y, "y")
        )

    @eqx.filter_jit
    def potential(self, x: ArrayLike) -> Float[Array, " k"]:
        r"""The convex function $\varphi$ at points of shape (k, d). The first potential of the
        squared distance, which is not halved, is $|x|^2 - 2 \varphi(x)$."""
        frame, network = self.frame, self.networks[0]
        return jax.vmap(lambda x: frame.potential(x, network(frame.x_in(x))))(self._points(x, "x"))

    @eqx.filter_jit
    def conjugate(self, y: ArrayLike) -> Float[Array, " k"]:
        r"""Its convex conjugate $\varphi^*$ at points of shape (k, d)."""
        frame = self.frame
        return jax.vmap(lambda y: frame.conjugate(y, self._conjugate(frame.y_in(y))))(
            self._points(y, "y")
        )

    def inverse_in_frame(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """Where one point comes from, both in the coordinates of `frame`."""
        potential, predictor = self.networks
        return inverse(potential, self.refinement, predictor(y), y)

    def _conjugate(self, y: Float[Array, " d"]) -> Float[Array, ""]:
        x = self.inverse_in_frame(y)
        return jnp.sum(x * y) - self.networks[0](x)

    def _points(self, points: ArrayLike, name: str) -> Float[Array, "k d"]:
        source = self.frame.source
        return points_like(points, name, len(source), source.dtype)
