"""Fonts for class names in any script."""

from collections.abc import Iterable
from functools import cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

DEFAULT = 'sans-serif'  # DejaVu Sans, unless matplotlib's rcParams say otherwise: Latin, Greek, Cyrillic and others
ADVICE = 'install one, e.g. with apt install fonts-noto-cjk, or copy a .ttf or .otf file into ~/.local/share/fonts'


@cache
def families_for(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Returns families of installed fonts which together have the letters, and the letters that none has.

    matplotlib draws a letter in the first family of a text that has it. Its default comes first; as few others as
    possible follow. Fonts that were installed since matplotlib listed them are found, too.

    Args:
        letters: those of all texts to be drawn.
    """
    default = font_manager.findfont(font_manager.FontProperties(family=[DEFAULT]))
    missing = letters - _having(default, letters)
    families = [DEFAULT]
    if missing:
        files = {font.fname for font in font_manager.fontManager.ttflist} | set(font_manager.findSystemFonts())
        found = {file: _having(file, missing) for file in sorted(files)}
        while missing and (best := max(found, key=lambda file: _rank(file, found[file] & missing), default=None)):
            if not found[best] & missing:
                break
            missing -= found.pop(best)
            families.append(_register(best))
    return tuple(families), missing


def _rank(file: str, letters: Iterable[str]) -> tuple:
    """The more letters the better; among equals an upright font of normal weight without serifs."""
    name = file.rpartition('/')[2].lower()
    return (
        len(set(letters)),
        'regular' in name,
        not any(style in name for style in ('bold', 'italic', 'oblique')),
        ('serif' not in name.replace('sansserif', '').replace('sans-serif', '')),
    )


def _having(file: str, letters: frozenset[str]) -> frozenset[str]:
    """Those of the letters that a font has; none if it cannot be drawn with."""
    try:
        font = FT2Font(file)
        known = font.get_charmap() if font.scalable else {}
    except (OSError, RuntimeError, ValueError):  # not a font, or one that FreeType does not read
        return frozenset()
    return frozenset(letter for letter in letters if ord(letter) in known)


def _register(file: str) -> str:
    """Makes a font file known to matplotlib, and returns its family."""
    if all(font.fname != file for font in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(file)
    return next(font.name for font in font_manager.fontManager.ttflist if font.fname == file)
