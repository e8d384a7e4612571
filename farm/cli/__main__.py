"""`python -m farm.cli`: the same as the console script."""

from farm.cli.main import main

main()
