"""The same service as most people would write it: an ORM object and a `.delay()` for each CVM.

It keeps the rows of cvmstop's tables, and nothing of cvmstop's promises: no lease, no cap, no
attempt, no dispatcher; a message that is lost is a stop that is lost.
"""
