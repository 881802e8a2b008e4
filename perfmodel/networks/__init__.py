"""Published networks, one file per family."""
