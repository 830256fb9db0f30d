"""Training: a generator of steps, its optimizers and schedules, and the run directory it fills."""
