"""A workflow under way: what its last Snakemake said, what Slurm says, and how to go on.

Imports neither torch nor Snakemake: ``rlsubnet status`` answers at once, also where a run is busy.
"""
