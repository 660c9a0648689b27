"""Large files in pieces, for machines that pass on only a few small files."""

import tarfile
from collections.abc import Iterable
from pathlib import Path

PIECE = 16 * 2**20 - 2**16  # bytes; safely below 16 MiB


def pack(paths: Iterable[Path], root: Path, folder: Path, name: str, pieces: int, size: int = PIECE) -> list[Path]:
    """Writes ``paths`` into an archive in at most ``pieces`` pieces ``name.00``, ``name.01`` … of ``size`` bytes.

    Their names there are relative to ``root``. Files that no longer fit are skipped, and none is cut off.
    """
    for old in folder.glob(f'{name}.[0-9][0-9]'):
        old.unlink()
    whole = folder / f'{name}.part'
    with tarfile.open(whole, 'w:gz', compresslevel=6) as archive:
        for path in paths:
            # a file never grows by more than this when it is compressed
            if whole.stat().st_size + path.stat().st_size + 2**16 > pieces * size:
                continue
            archive.add(path, path.relative_to(root))
            archive.fileobj.flush()
    written = []
    with whole.open('rb') as file:
        while content := file.read(size):
            written.append(folder / f'{name}.{len(written):02}')
            written[-1].write_bytes(content)
    whole.unlink()
    return written


def unpack(folder: Path, name: str, into: Path) -> list[str]:
    """Extracts what :func:`pack` wrote, and returns the names of the files; files that are there stay.

    Raises:
        ValueError: if a piece is missing or damaged. The files before it are there.
    """
    found = sorted(folder.glob(f'{name}.[0-9][0-9]'))
    if not found:
        return []
    if [path.name for path in found] != [f'{name}.{i:02}' for i in range(len(found))]:
        raise ValueError(f'{folder}: of {name} a piece before {found[-1].name} is missing')
    into.mkdir(parents=True, exist_ok=True)
    whole = into / f'{name}.part'
    names = []
    try:
        with whole.open('wb') as file:
            for path in found:
                file.write(path.read_bytes())
        with tarfile.open(whole) as archive:
            for member in archive:
                names.append(member.name)
                if not (into / member.name).exists():
                    archive.extract(member, into, filter='data')
    except (EOFError, OSError, tarfile.TarError) as error:
        raise ValueError(f'{folder}: {name} is damaged or its last piece is missing ({error})') from None
    finally:
        whole.unlink(missing_ok=True)
    return names
