"""The command line."""

from __future__ import annotations

from interpretgan.cli.app import main, run_command

__all__ = ["main", "run_command"]
