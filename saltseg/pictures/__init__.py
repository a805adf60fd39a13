"""Every picture of the project."""
