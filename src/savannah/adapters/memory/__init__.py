"""Every port in memory: shipped and supported, for embedding programs and for tests.

Storage with real transactions, a gateway that keeps its texts, and a world that stands still. It
needs nothing but the standard library; tokens and password hashing are elsewhere.
"""

from savannah.adapters.memory.carriers import InlineQueue, MemoryGateway
from savannah.adapters.memory.storage import MemoryStorage, MemoryUnitOfWork
from savannah.adapters.memory.world import (
    ManualClock,
    MemoryCache,
    MemoryRateLimiter,
    NullMetrics,
    SeededRandomness,
)

__all__ = [
    "InlineQueue",
    "ManualClock",
    "MemoryCache",
    "MemoryGateway",
    "MemoryRateLimiter",
    "MemoryStorage",
    "MemoryUnitOfWork",
    "NullMetrics",
    "SeededRandomness",
]
