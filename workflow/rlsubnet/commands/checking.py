"""Subcommands of this area (none yet)."""

import argparse


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
