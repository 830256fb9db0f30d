"""The version of Wenlu: read by the build, and written into everything that is measured."""

__version__ = "0.1.0"
