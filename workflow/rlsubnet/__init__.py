"""Reproduction pipeline for "Reinforcement Learning Finetunes Small Subnetworks in LLMs"."""

__version__ = "0.1.0"
