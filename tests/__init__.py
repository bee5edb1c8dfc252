"""Tests of rlsubnet."""
