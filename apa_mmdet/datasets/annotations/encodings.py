"""Guesses the encoding of a text that is not UTF-8."""

import json
import re

MULTIBYTE = 'GB18030', 'BIG5', 'EUC-KR', 'SHIFT_JIS', 'EUC-JP'
WESTERN = 'WINDOWS-1252'
LONE_LETTER = rb'(?<![\x80-\xff])[\xa0-\xff](?![\x80-\xff])'  # as the letters with accents of Western languages


def guess_encoding(data: bytes) -> str:
    """The encodings that ``data``, a JSON text or a list of names, can be in, by the names that iconv knows.

    Example:
        >>> guess_encoding('{"name": "Käse"}'.encode('cp1252')), guess_encoding('{}'.encode('utf-16'))
        ('WINDOWS-1252', 'UTF-16')
        >>> guess_encoding('苹果'.encode('gbk'))
        'GB18030 or BIG5 or EUC-KR or EUC-JP'
    """
    unicode = json.detect_encoding(data)  # by a byte order mark, or zeros among the first bytes
    if unicode.startswith(('utf-16', 'utf-32')):
        return unicode.upper()
    high = sum(byte >= 0x80 for byte in data)
    if len(re.findall(LONE_LETTER, data)) == high:
        return WESTERN
    return ' or '.join(name for name in MULTIBYTE if _decodes(data, name)) or WESTERN


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
