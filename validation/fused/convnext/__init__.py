"""ConvNeXt: a 7×7 depthwise convolution and a layer norm, then the two products."""
