"""A second reader of prompts and answers, written without the generator's code."""

import re


def totals_of(prompt: str) -> list[str]:
    """Return the two-digit running totals of a prompt such as ``07+5+0*9+0+0=``."""
    match = re.fullmatch(r"(\d\d)((?:[-+*]\d)+)=", prompt)
    assert match, prompt
    value = int(match[1])
    totals = []
    for step in re.findall(r"[-+*]\d", match[2]):
        value = eval(f"({value}){step}") % 100
        totals.append(f"{value:02d}")
    return totals


def level_of(prompt: str) -> int:
    """Return the number of steps that are not ``+0``."""
    return len(re.findall(r"[-+*]\d", prompt)) - len(re.findall(r"\+0", prompt))
