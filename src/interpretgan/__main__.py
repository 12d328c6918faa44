"""`python -m interpretgan`."""

from interpretgan.cli import main

main()
