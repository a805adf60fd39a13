"""saltseg: find out what delineates salt best in seismic images, know that it is real, and use it."""

__version__ = "0.1.0"
