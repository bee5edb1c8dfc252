#!/usr/bin/env bash
# Snakemake runs this inside the new environment, from the folder of the Snakefile. By hand:
#   conda env create -f envs/demo.yaml && conda activate rlsubnet && envs/demo.post-deploy.sh
set -euo pipefail
python -m pip install --quiet -c envs/constraints.txt -e '.[train,workflow]'
