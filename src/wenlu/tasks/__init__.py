"""Tasks: an objective, a head, a collator and a metric each. One file a task; the file's name is the task's name."""
