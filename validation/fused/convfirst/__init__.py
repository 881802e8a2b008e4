"""ConvFirst: the spatial convolution sees the narrow input."""
