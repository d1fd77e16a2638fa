"""How many programs share the work of one unit, such as an image."""

# A few programs for each multiprocessor of a large GPU, and enough work in each to be worth its start.
_ENOUGH_PROGRAMS = 512
_FEWEST_TILES = 4
_MOST_SHARES = 64


def shares(units: int, tiles: int) -> int:
    """Into how many shares, a power of two, to split each of `units`, which is `tiles` blocks of a program's size.

    One where the units alone keep a GPU busy: then the first and the second pass over the data are one launch.
    """
    wanted = min(_ENOUGH_PROGRAMS // units, tiles // _FEWEST_TILES, _MOST_SHARES)
    return 1 if wanted < 2 else 1 << (wanted.bit_length() - 1)
