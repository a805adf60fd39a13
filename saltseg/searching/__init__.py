"""A search for a better experiment: Optuna's part, and a process for each trial."""
