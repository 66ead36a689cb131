"""The embedded compact SAM: encoder, prompt encoder and decoder of segment_anything's parts."""
