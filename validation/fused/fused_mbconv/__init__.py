"""FusedMBConv: a full 3×3 convolution expands."""
