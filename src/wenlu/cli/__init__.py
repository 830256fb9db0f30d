"""The command line. Nothing imports this package; it imports everything else, inside functions only."""
