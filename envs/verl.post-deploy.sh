#!/usr/bin/env bash
# Snakemake runs this inside the new environment, from the folder of the Snakefile. By hand:
#   conda env create -f envs/verl.yaml && conda activate rlsubnet-verl
#   envs/verl.post-deploy.sh
set -euo pipefail
python -m pip install --quiet -r envs/verl.txt
# Compiled here, against the torch just installed: its own list of requirements does not name torch.
python -m pip install --quiet --no-build-isolation flash-attn==2.8.3
# Without its dependencies: those are for the demo's environment, and newer.
python -m pip install --quiet --no-deps -e .
