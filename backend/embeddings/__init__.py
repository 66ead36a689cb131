"""One encode per image and view: cache, stores, the queue for the processor, encoding ahead.

Threads: one that encodes ahead (`prefetch`).  Locks: the cache's (which image is being encoded,
so that others wait for it instead of encoding it too) and the scheduler's (who may use the
encoder: clicks before the images that are encoded ahead).
"""
