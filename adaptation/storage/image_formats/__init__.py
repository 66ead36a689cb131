"""What the formats of image files ask for beyond Pillow, so that pixels are those a browser shows.

Each module knows one format: which of its parts browsers obey, and which kinds Pillow misreads.
"""
