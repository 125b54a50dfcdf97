"""Files that want to harm whoever reads them, all of them but the crowds, made by a fixed recipe: hostile_files.py DIRECTORY"""
import sys

import hostile_arrays
import hostile_echoes
import hostile_hdf5
import hostile_headers
import hostile_pickles
import hostile_states
import hostile_zips
from hostile_kit import write

MODULES = (hostile_pickles, hostile_zips, hostile_headers, hostile_arrays, hostile_hdf5, hostile_states, hostile_echoes)


def saves():
    """Every checkpoint, with what is to be said of it."""
    for module in MODULES:
        yield from module.saves()


if __name__ == "__main__":
    write(saves(), sys.argv[1])
