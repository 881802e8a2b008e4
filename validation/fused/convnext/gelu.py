"""GELU as the kernels for Hopper evaluate it: of s = EXPANDED · preactivation, s + s·tanh(s·(s² + INNER)) is GELU / PROJECTED.

By tanh GELU is u + u·tanh(u·(A + B·u²)), u half the preactivation; with s = ∛B·u the coefficient of the cube is 1, and one
multiplication less is done for each hidden channel. INNER = A / ∛B stands in `convnext.cuh`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

EXPANDED: Final = np.float32(0.32617224)
"""What the weights and biases of the expansion are multiplied by: ∛B / 2."""
PROJECTED: Final = np.float32(0.5) / EXPANDED
"""What the weights of the projection are multiplied by."""
