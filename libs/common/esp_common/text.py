"""Text from outside, made fit to be logged, stored and shown on a terminal."""


def printable(raw: bytes) -> str:
    """Return `raw` as text: bytes that are not UTF-8 and unprintable characters as escapes (`\\xff`)."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
