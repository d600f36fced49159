"""The command ``diffaug``: parse, call one function, print."""

from diffaug.cli.commands import main

__all__ = ["main"]
