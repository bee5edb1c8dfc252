"""Everything that a quarter of an hour of one GPU is good for: ``day.sh SECONDS`` runs it."""
