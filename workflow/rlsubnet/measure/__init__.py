"""Pure numbers from arrays: sparsity, overlap, rank, trajectory; reads no files, loads no torch.

Weights arrive as numpy arrays in their stored form: ``uint16`` holds bfloat16 codes,
``float16`` and ``float32`` hold themselves.
"""
