"""Pure losses: tensors in, tensors out; no model, no file, no global state."""
