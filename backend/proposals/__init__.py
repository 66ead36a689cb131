"""Proposals in a project: what is known of its images, what is proposed, what becomes of it.

Everything runs behind the replies: an opened task is answered with what is ready, and with nothing
where nothing is.
"""
