"""The demo's made-up data: seeded, and labeled by the generators themselves."""
