"""Ground floor: settings, errors, messages, runs, log, reproducibility. Imports nothing above it, and never torch."""
