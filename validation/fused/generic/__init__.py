"""What the generic kernels share (`*_generic.cu`, `ampere.cuh`): mma.sync, any channels that are a multiple of eight, fp16 and bf16."""
