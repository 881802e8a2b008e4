"""What really happened: kernels, measurements, and their comparison with the model."""
