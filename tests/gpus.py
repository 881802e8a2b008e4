"""The GPU that tests of kernels choose tiles for."""

from perfmodel.validation.fused.problem import DeviceLimits

H200 = DeviceLimits(
    name="NVIDIA H200",
    compute_capability=(9, 0),
    multiprocessors=132,
    shared_bytes_per_block=232448,
    shared_bytes_per_multiprocessor=233472,
    l2_bytes=62914560,
)
