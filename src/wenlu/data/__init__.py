"""From files to batches: readers, cleaning, de-duplication, the token store, packing and the loader."""
