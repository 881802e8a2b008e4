"""Residual blocks as compositions of layers."""
