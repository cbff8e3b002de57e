"""Maths that knows tensors and modules, and none of the nouns of this package."""
