"""Residual blocks that run in one launch: what each family computes, the kernels that serve it, and the GPU they run on."""
