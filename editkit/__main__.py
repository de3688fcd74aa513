"""`python -m editkit`: the command line."""

from editkit.cli import main

main()
