"""The job queue on Redis, with SAQ: ids travel as jobs to the workers, wake-ups to the relays.

It only carries. The message row in storage is the truth: what Redis or a worker loses comes back
with the lease there, and what arrives twice is sent once, since only one caller gets a row that
still waits. So nothing here waits long for Redis, and nothing here fails for good.
"""

from savannah.adapters.saq_queue.queue import SaqQueue
from savannah.adapters.saq_queue.worker import Handler, SaqWorker

__all__ = ["Handler", "SaqQueue", "SaqWorker"]
