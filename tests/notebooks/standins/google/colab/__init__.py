"""A stand-in for Colab's own package."""

from google.colab import drive

__all__ = ["drive"]
