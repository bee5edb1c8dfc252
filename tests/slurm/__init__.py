"""Tests on a real Slurm cluster that they start on this machine and stop again."""
