"""What a GPU is used for and how well: training steps, masks, rollouts, counting changes, ranks.

One command of a few minutes: ``python -m benchmarks.gpu``. ``--miniature`` runs the same code on a
CPU with a model of some ten thousand weights; what it prints says nothing about a GPU.
"""
