"""The benchmarks, one module each, with ``figures(folder, repeats)``: a list, or one by one.

A module that is put here is run by ``make bench``. ``folder`` keeps what is made for it from one
call to the next; ``repeats`` says how often a short comparison is to be repeated. What a machine
lacks is told by raising :class:`benchmarks.figure.Unavailable`.
"""
