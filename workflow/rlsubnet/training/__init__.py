"""Training on one device: a run is a function of its sheet row, its inputs and its seed."""
