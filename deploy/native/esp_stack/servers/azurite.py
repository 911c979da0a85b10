"""Azurite: Azure's blob storage on this machine, with an account of our own instead of the well-known one."""

import base64
from collections.abc import Sequence
from pathlib import Path
from secrets import token_bytes

import httpx

from esp_stack.programs import Program, executable, free_port, private_file, private_folder, service_account
from esp_stack.servers.server import Server

ACCOUNT = "esp"
LAUNCHER = Path(__file__).parents[2] / "azurite.js"


def new_account_key() -> str:
    """Return a random storage account key."""
    return base64.b64encode(token_bytes(64)).decode()


class Azurite(Server):
    """One blob endpoint."""

    name = "azurite"

    def __init__(self, home: Path, *, port: int | None = None, account_key: str | None = None) -> None:
        super().__init__(home, service_account())
        self.port = port or free_port()
        self.account_key = account_key or new_account_key()

    @property
    def url(self) -> str:
        """Blob endpoint of the account."""
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """What Azure's client libraries take."""
        parts = ("DefaultEndpointsProtocol=http", f"AccountName={ACCOUNT}", f"AccountKey={self.account_key}")
        return ";".join((*parts, f"BlobEndpoint={self.url};"))

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        options = ("--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self._data))
        argv = (executable("node"), str(LAUNCHER), *options)
        flags = ("--silent", "--disableTelemetry", "--skipApiVersionCheck")
        environment = {"AZURITE_ACCOUNTS_FILE": str(self._account_file)}
        return [Program(self.name, (*argv, *flags), self.home, self.user, environment)]

    def configure(self) -> None:
        """Write the account file and make the data folder."""
        private_folder(self._data, self.user)
        private_file(self._account_file, f"{ACCOUNT}:{self.account_key}", self.user)

    def check(self) -> None:
        """Raise unless the account's endpoint answers (it refuses us, being asked without a signature)."""
        if httpx.get(self.url, params={"comp": "list"}, timeout=2).status_code not in (400, 403):
            raise ConnectionError(f"{self.url} is not answered by Azurite")

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _account_file(self) -> Path:
        return self.home / "account"
