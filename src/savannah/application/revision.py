"""Optimistic concurrency: a writer may say which revision it has read."""

from __future__ import annotations

from collections.abc import Collection

from savannah.domain.errors import StaleVersion

IfMatch = Collection[int] | None
"""The versions the caller would accept; None for whatever is there."""


def check_version(current: int, if_match: IfMatch) -> None:
    """Raises: StaleVersion, when the current version is none of those."""
    if if_match is not None and current not in if_match:
        raise StaleVersion(current)
