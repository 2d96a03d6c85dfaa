"""`python chaos_launch.py VERB WORDS…`: a command of the suite with the tiny architecture known.

Worker processes import this file too, as every program's main file.
"""

from __future__ import annotations

import importlib
import sys

import killing

from benchmark.cli import invoke

killing.register()

if __name__ == "__main__":
    verb = importlib.import_module(f"benchmark.{sys.argv[1]}")
    sys.exit(invoke(verb.main, sys.argv[2:]))
