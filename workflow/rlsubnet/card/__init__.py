"""The card of a pair: all that is measured about two checkpoints, on one page of HTML.

``facts`` measures, ``cautions`` says what a reader could take wrongly, ``paper`` holds what the
paper prints beside it; ``svg``, ``charts``, ``parts`` and ``page`` make the page of it.
"""
