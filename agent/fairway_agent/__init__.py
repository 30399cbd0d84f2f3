"""The agent: one process that keeps a node equal to what the store says."""
