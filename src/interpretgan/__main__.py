"""`python -m interpretgan`."""

from interpretgan.cli.app import main

main()
