"""One file a leaf verb; each exposes ``command``. Heavy imports stand inside the functions."""
