"""The command line."""

from interpretgan.cli.app import main, run_command

__all__ = ["main", "run_command"]
