"""Scores with their definitions; nothing here knows torch."""
