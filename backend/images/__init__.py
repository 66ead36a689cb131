"""Images of tasks: found, fetched with care, decoded as a browser shows them, kept in the album.

Threads: one that writes to the album.  Locks: around the digests that are known, and the albums.
"""
