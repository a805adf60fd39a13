"""saltseg: find out what delineates salt best in seismic images, know that it is real, and use it."""

import gc

__version__ = "0.1.0"

# torch, Lightning and what they import make half a million objects, all of which stay. To look through them for garbage
# after every 700 new ones, Python's default, takes a fifth of a command's start.
gc.set_threshold(10_000, 10, 10)
