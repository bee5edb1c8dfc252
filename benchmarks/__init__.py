"""Speed and memory beside what else one would use; every figure is a ratio within one run.

``python -m benchmarks`` runs all and ``python -m benchmarks differ`` one of them. A benchmark is a
module of ``benchmarks.suite``; what they share stands beside that folder.
"""
