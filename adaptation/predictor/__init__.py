"""What happens to an object between two clicks: zoom, decode, obey the clicks, follow the edges.

`interactive` is the one path of a click: the service, the evaluation and training all take it.
Everything here is a function of its arguments, or state that its caller owns; no threads, no locks.
"""
