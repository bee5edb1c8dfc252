"""Status and resume of a workflow."""
