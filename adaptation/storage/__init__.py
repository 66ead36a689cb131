"""What is kept on a disk: images by digest, data sets, whole files, downloads, provenance.

No threads.  Files are written whole or not at all, so that several processes may read beside one
that writes.
"""
