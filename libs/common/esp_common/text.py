"""Make external text safe to log, store and print on a terminal."""


def printable(raw: bytes) -> str:
    """Return `raw` as text, with invalid UTF-8 and unprintable characters escaped (`\\xff`)."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
