"""What all processes share over Redis, besides jobs: a cache, and counters for limits."""

from savannah.adapters.shared_redis.cache import RedisCache
from savannah.adapters.shared_redis.limiter import RedisRateLimiter

__all__ = ["RedisCache", "RedisRateLimiter"]
