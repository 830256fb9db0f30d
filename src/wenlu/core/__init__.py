"""Ground floor: settings, errors, messages, runs, log, reproducibility. Imports nothing else of Wenlu, and never torch."""
