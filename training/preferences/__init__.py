"""From daily work to preferences: the journal becomes examples, ranked lists and pairs.

From the bottom up: ``rows`` < ``files``, ``settings``, ``regions`` < ``evidence`` < ``sources``,
``rankings`` < ``sheet``, ``folder`` < ``build``.  Whoever trains reads with ``files``.
"""
