"""Azurite: Azure's blob storage on this machine, with an account of our own instead of the well-known one."""

import base64
from collections.abc import Sequence
from pathlib import Path
from secrets import token_bytes

import httpx

from esp_stack.certificates import Tls
from esp_stack.programs import Program, executable, free_port, own_account, private_file, private_folder
from esp_stack.servers.server import Server

ACCOUNT = "esp"
LAUNCHER = Path(__file__).parents[2] / "azurite.js"


def new_account_key() -> str:
    """Return a random storage account key."""
    return base64.b64encode(token_bytes(64)).decode()


class Azurite(Server):
    """One blob endpoint.

    `tls`: over https only, whose certificate must name `localhost`: pgBackRest goes by names alone.
    `bearer_tokens`: accept tokens of Microsoft Entra too. Azurite checks their claims, not their signature,
    so this is for tests only.
    """

    name = "azurite"
    data_remedy = "put a copy of {home}/data back: archives and backups are in it"

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        account_key: str | None = None,
        tls: Tls | None = None,
        bearer_tokens: bool = False,
    ) -> None:
        super().__init__(home, own_account("esp-blob"))
        self.port = port or free_port()
        self.account_key = account_key or new_account_key()
        self.tls = tls
        self.bearer_tokens = bearer_tokens

    @property
    def url(self) -> str:
        """Blob endpoint of the account."""
        base = f"https://localhost:{self.port}" if self.tls else f"http://127.0.0.1:{self.port}"
        return f"{base}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        """What Azure's client libraries take."""
        protocol = f"DefaultEndpointsProtocol={'https' if self.tls else 'http'}"
        parts = (protocol, f"AccountName={ACCOUNT}", f"AccountKey={self.account_key}")
        return ";".join((*parts, f"BlobEndpoint={self.url};"))

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        options = ("--blobHost", "127.0.0.1", "--blobPort", str(self.port), "--location", str(self._data))
        argv = (executable("node"), str(LAUNCHER), *options)
        flags = ["--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        if self.tls:
            # With --oauth it takes bearer tokens besides signatures, over https only.
            flags += ["--cert", str(self.tls.server), "--key", str(self.tls.server)]
            flags += ["--oauth", "basic"] if self.bearer_tokens else []
        environment = {"AZURITE_ACCOUNTS_FILE": str(self._account_file)}
        return [Program(self.name, (*argv, *flags), self.home, self.user, environment)]

    def configure(self) -> None:
        """Write the account file and make the data folder."""
        private_folder(self._data, self.user)
        private_file(self._account_file, f"{ACCOUNT}:{self.account_key}", self.user)

    def check(self) -> None:
        """Raise unless the account's endpoint answers (it refuses us, being asked without a signature)."""
        verify = self.tls.client_context() if self.tls else True
        answer = httpx.get(self.url, params={"comp": "list"}, timeout=2, verify=verify)
        if answer.status_code not in (400, 403):
            raise ConnectionError(f"{self.url} is not answered by Azurite")

    @property
    def _data(self) -> Path:
        return self.home / "data"

    @property
    def _account_file(self) -> Path:
        return self.home / "account"
