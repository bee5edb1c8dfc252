"""Do training prompts hold what a model is later evaluated on?"""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


def normalized_words(text: str) -> list[str]:
    """Return the words of a text without case, punctuation and spacing.

    >>> normalized_words("What is  2+2, Bob?")
    ['what', 'is', '2', '2', 'bob']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if c.isalnum() else " " for c in folded).split()


@dataclass
class Overlaps:
    """What of one set of evaluation items stands in training prompts.

    Attributes:
        short: how many have fewer than ``n`` words; only a prompt of the same words is a match.
        exact: item -> number of the first training prompt that has the same words.
        near: item -> (share of its words, number of the training prompt) where one prompt alone
            holds enough of them.
    """

    items: int
    short: int
    exact: dict[str, int] = field(default_factory=dict)
    near: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def matched(self) -> list[str]:
        return list(dict.fromkeys([*self.exact, *self.near]))

    @property
    def share(self) -> float:
        return len(self.matched) / self.items


def find_overlaps(
    prompts: Iterable[str], items: Sequence[tuple[str, str]], n: int = 8, enough: float = 0.5
) -> Overlaps:
    """Return which evaluation items stand in training prompts.

    An item matches a prompt of the same words, or one prompt that holds more than ``enough`` of
    its words, counting those in runs of ``n`` words that item and prompt share. Rule and numbers
    are those of Tulu 3 (arXiv 2411.15124, section 3.2).

    Args:
        items: (name, text) of each evaluation item, in memory.

    >>> items = [("a", "add 2 and 2 please"), ("b", "x y z w")]
    >>> found = find_overlaps(["Now add 2 and 2!"], items, n=3)
    >>> found.near, found.share
    ({'a': (0.8, 1)}, 0.5)
    """
    words = {name: normalized_words(text) for name, text in items}
    if not words or len(words) != len(items):
        raise ValueError(f"evaluation items: expected different names, found {len(items)} items")
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    holders: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, its in words.items():
        same[tuple(its)].append(name)
        for start in range(len(its) - n + 1):
            holders[tuple(its[start : start + n])].append((name, start))
    overlaps = Overlaps(items=len(items), short=sum(len(its) < n for its in words.values()))
    for number, prompt in enumerate(prompts, start=1):
        asked = normalized_words(prompt)
        for name in same.get(tuple(asked), ()):
            overlaps.exact.setdefault(name, number)
        covered: dict[str, set[int]] = defaultdict(set)
        for run in {tuple(asked[start : start + n]) for start in range(len(asked) - n + 1)}:
            for name, start in holders.get(run, ()):
                covered[name].update(range(start, start + n))
        for name, places in covered.items():
            share = len(places) / len(words[name])
            if share > max(enough, overlaps.near.get(name, (0.0, 0))[0]):
                overlaps.near[name] = (share, number)
    return overlaps
