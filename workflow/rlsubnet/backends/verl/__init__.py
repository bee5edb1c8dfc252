"""PRIME and GRPO on several GPUs with verl (https://github.com/volcengine/verl), version 0.6.1.

0.6.1 is the last release with the workers that are extended here. No release contains a trainer for
PRIME; the one in :mod:`rlsubnet.backends.verl.trainer` is this project's own, on verl's public
classes. That subpackage imports verl; everything beside it runs without.
"""

VERSION = "0.6.1"
