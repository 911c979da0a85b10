"""What the routes share."""

from typing import Final

from esp_common.errors import EspError

NO_NUL: Final = r"^[^\x00]*$"


class NotAcceptable(EspError):
    """The answer does not exist in a form that the caller takes."""

    code, status, title = "not-acceptable", 406, "No such form"
