"""Publishes the pages under their paths in the repository, so that a link holds on the site as in a checkout."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

from mkdocs.structure.files import File, Files

PAGES = ('*.md', 'docs/*.md', 'configs/*/README.md', 'benchmarks/results/README.md')


def linked_files(page: Path, root: Path) -> set[str]:
    """Returns the files that a page links to, as paths from the root of the repository."""
    targets = re.findall(r'\]\(([^)#\s]+)', page.read_text())
    folder = PurePosixPath(page.relative_to(root).parent)
    paths = {normpath(folder / target) for target in targets if '://' not in target}
    return {path for path in paths if (root / path).is_file()}


def on_files(files: Files, config) -> Files:
    root = Path(config.config_file_path).parent
    for file in list(files):
        if Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    pages = [path for pattern in PAGES for path in sorted(root.glob(pattern))]
    paths = {str(page.relative_to(root)) for page in pages}.union(*(linked_files(page, root) for page in pages))
    for path in sorted(paths):
        files.append(File(path, root, config.site_dir, config.use_directory_urls))
    return files
