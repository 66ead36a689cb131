"""Sessions that learn behind the replies, and how they are made again from the journal.

Thread: one that learns (`worker`); it alone changes sessions (`manager`).  Any thread may ask for
weights (`adapter_store`, under its lock) and report a click (`worker.KnownImages`, under its own).
May be imported by `service`, `wiring`, `server` and `commands`.
"""
