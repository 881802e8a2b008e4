"""`python -m perfmodel` is the command line."""

from perfmodel.cli import main

main()
