"""What is known and predicted, as tables for people and machines."""
