"""Settings under which the library must pass: double precision available, nothing implicit."""

import hypothesis
import jax


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Problems are tiny and their programs many: the compiler's costly passes would take most of the
# time.
jax.config.update("jax_disable_most_optimizations", True)

hypothesis.settings.register_profile("otjax", deadline=None, max_examples=5, derandomize=True)
hypothesis.settings.load_profile("otjax")
