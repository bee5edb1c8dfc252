"""The one question whether a response is right, whatever kind of problem it answers."""

from rlsubnet.tasks import arithmetic, words


def is_correct(response: str, solution: str) -> bool:
    """Return whether ``response`` is right; the solution tells how it is verified.

    Args:
        response: the model's text without its end token.
        solution: of made-up arithmetic, or ``####`` and a number of a word problem.

    Raises:
        ValueError: the solution is neither.

    >>> is_correct(";08", "(1212080808"), is_correct("It is 8.", "#### 8")
    (True, True)
    """
    if solution.startswith(words.MARK):
        return words.is_correct_number(response, solution)
    return arithmetic.is_correct(response, solution)
