"""Errors that the command line turns into exit codes."""


class BadInput(Exception):
    """A user's mistake: one clear line, exit code 2."""
