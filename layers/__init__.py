"""What work costs, on no particular machine: layers, residual blocks, and graphs of them."""
