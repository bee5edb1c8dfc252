"""Run the benchmarks named, all by default, print every figure and write them as a page.

usage: python -m benchmarks [NAME ...] [--folder DIR] [--repeats 5] [--out benchmarks/results.md]
"""

import argparse
import importlib
import os
import pkgutil
import platform
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import suite
from benchmarks.figure import Figure, Unavailable, line
from rlsubnet.machine import installed, processor

PACKAGES = ("numpy", "scipy", "numba", "torch", "transformers")
COLUMNS = ("| what | median (range) | goal | of |", "|---|---|---|---|")


def names() -> list[str]:
    """Return all benchmarks there are."""
    return [module.name for module in pkgutil.iter_modules(suite.__path__)]


def machine() -> str:
    """Return processor, memory, system and versions in one paragraph."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {package: installed(package) for package in PACKAGES}
    versions = [f"{name} {number}" if number else f"no {name}" for name, number in found.items()]
    return (
        f"{len(os.sched_getaffinity(0))} processors ({processor()}), {memory:.0f} GiB, "
        f"{platform.system()}; Python {platform.python_version()}, "
        f"{', '.join(versions)}."
    )


def page(sections: Mapping[str, Sequence[str]], repeats: int) -> str:
    """Return the page of results: a section per benchmark."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. A ratio compares two things of one run on one machine, in turn;",
        "median and range over repetitions. docs/MEASURING.md says what is compared, and how.",
        "",
        f"{time.strftime('%Y-%m-%d')}: {machine()} Repetitions: `--repeats {repeats}`.",
    ]
    for name, section in sections.items():
        lines += ["", f"## {name}", "", *section]
    return "\n".join(lines) + "\n"


def run(name: str, folder: Path, repeats: int) -> list[str]:
    """Run one benchmark, print its figures as they come, and return its section of the page.

    What the machine lacks is told there.
    """
    module = importlib.import_module(f"{suite.__name__}.{name}")
    section = list(COLUMNS)
    print(f"{name}:", *section, sep="\n", flush=True)
    try:
        found: Iterable[Figure] = module.figures(folder, repeats)
        for figure in found:
            section.append(line(figure))
            print(section[-1], flush=True)
    except Unavailable as reason:
        section = [f"Not run: {reason}."]
        print(*section, flush=True)
    return section


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names()))
    parser.add_argument("--folder", type=Path, help="for pairs (6 GB), which are kept there")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="file to write the page to")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.names) - set(names())):
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    sections = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.names or names():
            sections[name] = run(name, folder, options.repeats)
    if options.out:
        options.out.write_text(page(sections, options.repeats))


if __name__ == "__main__":
    main()
