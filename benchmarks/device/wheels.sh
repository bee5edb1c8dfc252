#!/usr/bin/env bash
# What a machine without internet lacks for day.sh, as wheels for its Python 3.12: bash benchmarks/device/wheels.sh
set -eu
cd "$(dirname "$0")/../.."
rm -rf wheels
python3 -m pip wheel --quiet --no-deps -w wheels -c envs/constraints.txt connection-pool
glibc=()
for minor in 17 24 27 28; do glibc+=(--platform "manylinux_2_${minor}_x86_64"); done
python3 -m pip download --quiet --no-deps --only-binary=:all: -d wheels -c envs/constraints.txt \
  --python-version 3.12 --implementation cp "${glibc[@]}" \
  --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -r benchmarks/device/wheels.txt
du -sh wheels
