"""What is kept on a disk: images by digest, data sets, whole files, downloads, provenance.

No threads.  All files that others read are written by ``files.py``: whole or not at all, so that
several processes may read beside those that write.
"""
