"""Checks that several tests share."""

import jax
import numpy as np
from helpers import central_difference, inner_product


def check_derivatives(function, point, first, second, *, step=3e-4, rtol=1e-6, twice=False):
    """Gradient and second derivative are those of central differences in float64.

    Of `point` along `first`, and along `second` of that; `twice` compares reverse mode over reverse
    mode with forward over reverse as well.
    """
    function = jax.jit(function)
    gradient = jax.jit(jax.grad(function))
    slope = inner_product(gradient(point), first)
    difference = central_difference(function, point, first, step=step)
    np.testing.assert_allclose(slope, difference, rtol=rtol)

    def along(point):
        return inner_product(gradient(point), first)

    # Forward over reverse: one program gives both numbers.
    again, curvature = jax.jit(lambda p, v: jax.jvp(along, (p,), (v,)))(point, second)
    np.testing.assert_allclose(again, slope, rtol=1e-10)
    difference = central_difference(along, point, second, step=step)
    np.testing.assert_allclose(curvature, difference, rtol=rtol)
    if twice:
        reverse = inner_product(jax.jit(jax.grad(along))(point), second)
        np.testing.assert_allclose(reverse, curvature, rtol=1e-8)
        forward = jax.jit(lambda p, v: jax.jvp(function, (p,), (v,)))(point, first)[1]
        np.testing.assert_allclose(forward, slope, rtol=1e-10)
