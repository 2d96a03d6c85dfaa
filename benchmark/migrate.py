"""Old records stay readable: one step from each schema version of `record.json` to the next.

A step takes and returns the parsed JSON. It may rename, add or drop what the record says, and never
anything that the run id is made of: fields that a later spec adds are `ADDED_LATER` there instead.
The file on disk is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[int, Migration] = {}  # from version n to n + 1, for every n below SCHEMA


def migrated(content: dict[str, Any], version: int, wanted: int) -> dict[str, Any]:
    """The record of an older schema version as the wanted version writes it.

    Raises:
        KeyError: there is no step for a version. A step raises what it meets in a broken record.
    """
    for old in range(version, wanted):
        content = MIGRATIONS[old](content) | {"schema_version": old + 1}
    return content
