"""Translates the Sphinx roles and formulas of the docstrings to Markdown for the API reference."""

import re
from textwrap import dedent, indent

import griffe

ROLE = re.compile(r':(?:func|class|meth|mod):`(~?)([\w.]+)`')
FORMULA = re.compile(r'^( *)\.\. math::(.*(?:\n(?: *|\1 +\S.*))*)', re.M)


def translate(text: str) -> str:
    """Replaces roles by code (``:func:`~a.b``` by `` `b` ``) and formulas by code blocks."""
    text = ROLE.sub(lambda role: f'`{role[2].rsplit(".", 1)[-1] if role[1] else role[2]}`', text)
    block = '{0}```latex\n{1}\n{0}```\n\n'.format
    return FORMULA.sub(lambda m: block(m[1], indent(dedent(m[2].lstrip(' ')).strip(), m[1])), text)


class DocstringRoles(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = translate(obj.docstring.value)
