"""depthlab: why very deep networks get worse even on their training data, and what cures it."""
