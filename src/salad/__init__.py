"""SALAD: give a text LLM ears without making it dumber (arXiv 2510.13632)."""

__version__ = "0.2.0"
__all__ = ["__version__"]
