"""A client of Label Studio's API: what of it we call, with its two kinds of tokens."""
