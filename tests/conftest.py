"""Settings under which the library must pass: double precision available, nothing implicit."""

import os

import hypothesis
import jax


# Problems are tiny and their programs many: compilation takes most of the time. XLA's older
# emitter of fused loops compiles them three times as fast; later versions do not have it.
if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    )

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Nor do the compiler's costly passes pay.
jax.config.update("jax_disable_most_optimizations", True)

hypothesis.settings.register_profile("otjax", deadline=None, max_examples=5, derandomize=True)
hypothesis.settings.load_profile("otjax")
