"""XLA's flags for tests: compilation takes most of their time, and these halve it."""

from importlib.metadata import version

FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):  # XLA does not start with flags that it does not know
    FAST += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
