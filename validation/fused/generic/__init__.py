"""The generic kernels (`*_generic.cu`, `ampere.cuh`): any channels that are a multiple of eight, fp16 and bf16, compute capability 8.0 on."""
