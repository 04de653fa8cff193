"""What a person types, and how it becomes a config and a run."""
