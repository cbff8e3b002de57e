"""Audits: each file holds one, and its name is the audit's name."""

from pathlib import Path

from secateur.card import Shelf

shelf = Shelf(__name__, Path(__file__).parent)
__getattr__, __dir__ = shelf.face()
