"""The card of a pair: all that is measured about two checkpoints, on one page of HTML.

``facts`` measures, ``page`` turns that into rows and charts (``charts``), and the template
``card.html.j2`` holds the words of the page.
"""
