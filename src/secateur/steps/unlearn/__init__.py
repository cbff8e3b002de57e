"""Steps that make a model forget."""
