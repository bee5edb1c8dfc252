"""Tables and figures from the waist files of a results folder.

Everything here reads `results/{scale}/` and `config/published.yaml` and nothing else: no
checkpoint, no torch. `waist` reads, `measures` and `accuracy` compute, `tables` and `figures`
present, `export` writes, and `items` joins them: one call makes one item of the paper.
"""
