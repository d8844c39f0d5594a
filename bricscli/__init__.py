"""BRICS: bi-level feature representation of image collections (arXiv:2305.18601v3), as a command-line tool."""

__version__ = "0.1.0"
