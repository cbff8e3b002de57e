"""Steps that choose which weights to keep."""
