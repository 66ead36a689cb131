"""The online learner: a session's decoder weights, learned from clicks and finished masks.

A learner belongs to one thread; it neither starts threads nor writes files.  It may be imported by
the backend (which drives it behind the replies) and by training (which measures and replays it).
"""
