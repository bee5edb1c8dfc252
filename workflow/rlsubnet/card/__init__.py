"""The card of a pair: all that is measured about two checkpoints, on one page of HTML.

``facts`` measures and says what a reader could take wrongly; ``sections`` and ``page`` make the
page, from the charts and pieces of ``html``.
"""
