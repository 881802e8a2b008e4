"""What really happened: measurements, and their comparison with the model."""
