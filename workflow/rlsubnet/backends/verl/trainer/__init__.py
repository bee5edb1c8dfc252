"""What runs inside verl: importable in verl's environment only (envs/verl.yaml)."""
