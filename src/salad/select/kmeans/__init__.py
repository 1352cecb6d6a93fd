"""Balanced k-means for millions of points."""
