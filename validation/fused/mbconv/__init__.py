"""MBConv: the spatial convolution sees the hidden tensor, in groups."""
