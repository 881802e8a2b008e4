"""Tier `expected`: what a software stack attains, from what it launches, what each launch is limited by, and a few fitted constants."""
