"""The overlap of two mask files as booleans in numpy.

usage: python -m benchmarks.boolean_overlap MASK1 MASK2
"""

import sys

import numpy as np

from rlsubnet.checkpoints.masks import Mask


def main() -> None:
    """Read both masks whole, and print o1 and o2."""
    masks = [Mask(path) for path in sys.argv[1:]]
    first, second = ({name: mask.read(name) for name in mask.shapes} for mask in masks)
    both = sum(int((first[name] & second[name]).sum()) for name in first)
    for side in (first, second):
        print(both / sum(int(np.sum(mask)) for mask in side.values()))


if __name__ == "__main__":
    main()
