"""Linear layers that are 1-Lipschitz whatever their parameters."""

import equinox as eqx
import jax
import jax.lax as lax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Complex, Float, Inexact

from .._arrays import single_at_least
from .._control import in_turn
from ._shapes import whole


def _product(a: Array, b: Array) -> Array:
    # Accelerators would otherwise round to ten bits, which shows in the Lipschitz constant.
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def orthogonal(free: Inexact[Array, "*f m n"]) -> Inexact[Array, "*f m n"]:
    r"""The Cayley transform of any matrix: its columns, or rows if fewer, are orthonormal.

    With the free matrix split into $U$ (square) and $V$ (the rest),

    $$A = U - U^* + V^* V, \qquad
      Q = \begin{pmatrix} (I - A)(I + A)^{-1} \\ -2 V (I + A)^{-1} \end{pmatrix}$$

    (Trockman and Kolter 2021, arXiv:2104.07167, appendix on semi-orthogonal layers). $I + A$ has no
    singular value below 1, so the inverse always exists. A free matrix so large that rounding would
    spoil it is scaled down first, which has an orthogonal matrix as well; half precision is
    computed in float32.
    """
    if free.shape[-2] < free.shape[-1]:
        return _adjoint(orthogonal(_adjoint(free)))
    if free.dtype != single_at_least(free.dtype):
        return orthogonal(free.astype(single_at_least(free.dtype))).astype(free.dtype)
    n = free.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(n, dtype=free.dtype), (*free.shape[:-2], n, n))
    # The inverse is off by about eps |A|, and the step at the end squares that: to eps again.
    most = float(jnp.finfo(free.dtype).eps) ** -0.5
    # Real and imaginary parts, as the magnitude of a complex zero has no derivative.
    parts = jnp.stack([jnp.real(free), jnp.imag(free)])
    largest = jnp.max(jnp.abs(parts), axis=(0, -2, -1))[..., None, None]
    free = free * _shrinkage(largest, most).astype(free.dtype)
    u, v = free[..., :n, :], free[..., n:, :]
    skew, gram = u - _adjoint(u), _product(_adjoint(v), v)
    a = skew + gram
    squares = jnp.sum(jnp.real(a * jnp.conj(a)), axis=(-2, -1), keepdims=True)
    scale = _shrinkage(jnp.sqrt(jnp.maximum(squares, most**2)), most).astype(free.dtype)
    v = scale * v
    inverse = _inverse(identity + scale * skew + scale**2 * gram)
    q = jnp.concatenate([2 * inverse - identity, -2 * _product(v, inverse)], axis=-2)
    # One step of Newton and Schulz squares the error of rounding, which grows with |A|.
    return _product(q, 1.5 * identity - 0.5 * _product(_adjoint(q), q))


def _shrinkage(size: Float[Array, "*f 1 1"], most: float) -> Float[Array, "*f 1 1"]:
    """The factor that brings down to `most` what is larger, and leaves alone what is not."""
    return most / jnp.maximum(size, most)


@jax.custom_jvp
def _inverse(matrix: Inexact[Array, "*f n n"]) -> Inexact[Array, "*f n n"]:
    # A CPU inverts a batch in turn: batched LAPACK calls of jaxlib 0.10 share out their work to the
    # threads that they run on, and when as many calls as threads do so at once, all wait for ever.
    matrices = matrix.reshape(-1, *matrix.shape[-2:])
    return jax.vmap(lambda one: in_turn(jnp.linalg.inv, one)())(matrices).reshape(matrix.shape)


@_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """From the inverse at hand, by two products: no further factorisation or triangular solve."""
    inverse = _inverse(*primals)
    return inverse, -_product(inverse, _product(*tangents, inverse))


def _adjoint(matrix: Array) -> Array:
    return jnp.conj(jnp.swapaxes(matrix, -1, -2))


def _initial(key: Array, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """A free matrix whose orthogonal one is in general position: far from the identity, and from
    the edge of what the transform reaches."""
    if rows < columns:
        return _initial(key, columns, rows).T
    scale = jnp.full((rows, 1), (2 * columns) ** -0.5)
    scale = scale.at[columns:].set(max(rows - columns, 1) ** -0.5)
    return scale * jr.normal(key, (rows, columns))


def _initial_bias(key: Array, out_size: int, in_size: int) -> Float[Array, " out"]:
    limit = in_size**-0.5
    return jr.uniform(key, (out_size,), minval=-limit, maxval=limit)


class OrthogonalLinear(eqx.Module):
    """A linear layer whose weight has orthonormal rows or columns, whichever are fewer.

    The weight is made of a free matrix at each call, by a Cayley transform (Trockman and Kolter
    2021, arXiv:2104.07167), so that any optimiser keeps the layer 1-Lipschitz, and norms of
    gradients are preserved on the way to wider layers. Under `jax.vmap` over samples the transform
    is computed once.
    """

    free: Float[Array, "out in"]
    bias: Float[Array, " out"] | None

    def __init__(self, in_size: int, out_size: int, *, use_bias: bool = True, key: Array):
        """**Arguments:**

        - `in_size`, `out_size`: the numbers of features.
        - `use_bias`: whether to add a bias.
        - `key`: draws the weight and the bias.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        in_size, out_size = whole(in_size, "in_size"), whole(out_size, "out_size")
        key_weight, key_bias = jr.split(key)
        self.free = _initial(key_weight, out_size, in_size)
        self.bias = _initial_bias(key_bias, out_size, in_size) if use_bias else None

    @property
    def weight(self) -> Float[Array, "out in"]:
        """The orthogonal weight, shape (out, in)."""
        return orthogonal(self.free)

    def __call__(self, x: Float[Array, " in"]) -> Float[Array, " out"]:
        """Applies the layer to one vector."""
        out = _product(self.weight, x)
        return out if self.bias is None else out + self.bias


class OrthogonalConv(eqx.Module):
    """A convolution of square images with periodic borders that is an orthogonal linear map.

    Its matrix, from images to images, has orthonormal rows or columns, whichever are fewer. It is
    made of a free kernel at each call by one Cayley transform for each frequency (Trockman and
    Kolter 2021, arXiv:2104.07167), so that any optimiser keeps the layer 1-Lipschitz. The
    orthogonal kernel itself is as large as the image. Under `jax.vmap` over samples it is computed
    once.
    """

    free: Float[Array, "out in k k"]
    bias: Float[Array, " out"] | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        use_bias: bool = True,
        key: Array,
    ):
        """**Arguments:**

        - `in_channels`, `out_channels`: the numbers of channels.
        - `kernel_size`: of the free kernel.
        - `use_bias`: whether to add a bias to each channel.
        - `key`: draws the kernel and the bias.

        **Raises:** `ValueError` for sizes that are not positive whole numbers.
        """
        channels = whole(out_channels, "out_channels"), whole(in_channels, "in_channels")
        area = whole(kernel_size, "kernel_size") ** 2
        key_kernel, key_bias = jr.split(key)
        # Spread over the kernel such that at each frequency it is as large as a linear layer's.
        kernels = [_initial(one, *channels) / area**0.5 for one in jr.split(key_kernel, area)]
        self.free = jnp.stack(kernels, axis=-1).reshape(*channels, kernel_size, kernel_size)
        bias = _initial_bias(key_bias, channels[0], channels[1] * area)
        self.bias = bias if use_bias else None

    def _frequencies(self, size: int) -> Complex[Array, "size half out in"]:
        """The orthogonal matrix at each frequency of images of this size."""
        kernel_size = self.free.shape[-1]
        if kernel_size > size:
            raise ValueError(
                f"`x` must be an image of at least the kernel's size, {kernel_size}, got {size}."
            )
        rest = size - kernel_size
        kernel = jnp.pad(self.free, ((0, 0), (0, 0), (0, rest), (0, rest)))
        # Centred on the origin, so that the identity is within reach at every frequency.
        kernel = jnp.roll(kernel, (-(kernel_size // 2),) * 2, axis=(2, 3))
        return orthogonal(jnp.transpose(jnp.fft.rfft2(kernel), (2, 3, 0, 1)))

    def __call__(self, x: Float[Array, "in size size"]) -> Float[Array, "out size size"]:
        """Applies the layer to one image.

        **Raises:** `ValueError` if the image is not square, or smaller than the kernel.
        """
        if x.ndim != 3 or x.shape[1] != x.shape[2] or x.shape[0] != self.free.shape[1]:
            raise ValueError(
                f"`x` must be a square image of shape ({self.free.shape[1]}, size, size), got "
                f"shape {x.shape}."
            )
        size = x.shape[-1]
        spectrum = jnp.einsum(
            "hwoi,ihw->ohw",
            self._frequencies(size),
            jnp.fft.rfft2(x),
            precision=lax.Precision.HIGHEST,
        )
        out = jnp.fft.irfft2(spectrum, (size, size))
        return out if self.bias is None else out + self.bias[:, None, None]
