"""Where the kernels run."""

import jax


def run_here() -> bool:
    """Whether the device that JAX computes on is an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "nvidia" in jax.local_devices()[0].device_kind.lower()
