"""The tiny plan and the command line: see ``tests/plans.py``."""

from ..plans import cli, command, text, tiny

__all__ = ["cli", "command", "text", "tiny"]
