"""Blob storage by the identity of the process: Azurite over https, with tokens of the shape Entra issues."""

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import parse_qs

import jwt
import pytest
from azure.core.credentials import AccessToken
from azure.storage.blob import ContainerSasPermissions, generate_container_sas
from backup_site import localhost_certificate
from esp_archiver.settings import ArchiverSettings
from esp_archiver.storage import open_store
from esp_backup.blobs import Blobs
from esp_backup.programs import Account
from esp_backup.repository import AZURE, Repository
from esp_backup.settings import BackupSettings
from esp_common.errors import InvalidInput, Unavailable
from esp_stack.programs import free_port
from esp_stack.servers import Azurite
from esp_stack.servers.azurite import ACCOUNT

TENANT, CLIENT = "ab1f708d-50f6-404c-a006-d71b2ac7a606", "f997392c-e15a-4ad8-af9e-cd6966caba7f"
STORAGE = "https://storage.azure.com"


def storage_token(*, audience: str = STORAGE, expires_in: timedelta = timedelta(hours=1)) -> str:
    """Return an access token with the claims that storage checks."""
    now = datetime.now(UTC)
    claims = {"aud": audience, "iss": f"https://sts.windows.net/{TENANT}/", "iat": now, "nbf": now}
    return jwt.encode({**claims, "exp": now + expires_in}, "of the test, which Azurite does not check")


class StaticCredential:
    """A credential with one token."""

    token = storage_token()

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        assert scopes == (f"{STORAGE}/.default",)
        return AccessToken(self.token, int((datetime.now(UTC) + timedelta(hours=1)).timestamp()))

    async def __aenter__(self) -> "StaticCredential":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


@pytest.fixture(scope="module")
def azurite(server_home: Path) -> Iterator[Azurite]:
    home = server_home / "blob-identity"
    home.mkdir(mode=0o755)
    azurite = Azurite(home / "azurite", bearer_tokens=True)
    azurite.tls = localhost_certificate(home, azurite.user)
    azurite.start()
    yield azurite
    azurite.kill()


@pytest.fixture
def credential(monkeypatch: pytest.MonkeyPatch) -> StaticCredential:
    given = StaticCredential()
    monkeypatch.setattr("azure.identity.aio.DefaultAzureCredential", lambda: given)
    return given


def account(azurite: Azurite) -> dict[str, Any]:
    assert azurite.tls is not None
    return {"blob_account_url": azurite.url, "blob_ca_file": azurite.tls.authority}


async def test_archive_stores_and_reads_parts_by_identity(azurite: Azurite, credential: Any) -> None:
    settings = ArchiverSettings(**account(azurite), blob_api_version="2025-11-05")
    async with open_store(settings) as store:
        await store.ensure()
        etag = await store.upload("telemetry/one.parquet", io.BytesIO(b"part"), 4, {"rows": "1"})
        assert await store.read("telemetry/one.parquet", 0, 4, etag) == b"part"


async def test_daily_sets_are_stored_by_identity(azurite: Azurite, credential: Any) -> None:
    async with Blobs(BackupSettings(**account(azurite))) as blobs:
        await blobs.ensure()
        await blobs.put("sets/1", b"sealed", {})
        assert await blobs.get("sets/1") == b"sealed"


@pytest.mark.parametrize(
    "token",
    [
        storage_token(audience="https://vault.azure.net"),
        storage_token(expires_in=timedelta(seconds=-1)),
    ],
    ids=["of another audience", "expired"],
)
async def test_refused_token_is_an_error_that_names_the_fix(
    azurite: Azurite, credential: StaticCredential, token: str
) -> None:
    credential.token = token
    settings = ArchiverSettings(**account(azurite), blob_retries=0, blob_api_version="2025-11-05")
    async with open_store(settings) as store:
        with pytest.raises(Unavailable, match="refuses access") as refused:
            await store.ensure()
    assert "Storage Blob Data Contributor" in refused.value.fix
    async with Blobs(BackupSettings(**account(azurite))) as blobs:
        with pytest.raises(InvalidInput, match="refuses this process") as invalid:
            await blobs.ensure()
    assert "AZURE_CLIENT_ID" in invalid.value.fix
    assert token not in refused.value.line() + invalid.value.line()


class Entra(BaseHTTPRequestHandler):
    """The token endpoint of a tenant: exchanges a service-account token for one of storage."""

    forms: ClassVar[list[tuple[str, dict[str, list[str]]]]] = []

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.forms.append((self.path, parse_qs(form)))
        answer = {"access_token": storage_token(), "expires_in": 3600, "token_type": "Bearer"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        return None


@contextmanager
def entra(azurite: Azurite) -> Iterator[str]:
    assert azurite.tls is not None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Entra)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(azurite.tls.server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("service", ["archiver", "backup"])
def test_doctor_reaches_storage_with_the_token_of_its_service_account(
    azurite: Azurite, tmp_path: Path, service: str
) -> None:
    (tmp_path / "token").write_text("signed by the cluster")
    Entra.forms.clear()
    with entra(azurite) as authority:
        done = run_doctor(service, azurite, tmp_path, authority)
    assert f"storage\tok\tcontainer {'archive' if service == 'archiver' else 'backup'}" in done.stdout
    assert "by identity of the process" in done.stdout
    assert "catalogue\tFAILED" in done.stdout
    assert done.returncode == 1
    path, form = Entra.forms[0]
    assert path == f"/{TENANT}/oauth2/v2.0/token"
    assert form["client_assertion"] == ["signed by the cluster"]
    assert (form["client_id"], form["scope"]) == ([CLIENT], [f"{STORAGE}/.default"])


def run_doctor(
    service: str, azurite: Azurite, folder: Path, authority: str
) -> subprocess.CompletedProcess[str]:
    assert azurite.tls is not None
    prefix = f"ESP_{service.upper()}_"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESP_")} | {
        f"{prefix}BLOB_ACCOUNT_URL": azurite.url,
        f"{prefix}BLOB_CA_FILE": str(azurite.tls.authority),
        f"{prefix}DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        "ESP_BACKUP_CLUSTER_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        "ESP_BACKUP_STATE_FOLDER": str(folder),
        "ESP_BACKUP_MODE": "managed",
        "ESP_ARCHIVER_BLOB_API_VERSION": "2025-11-05",
        # What the webhook of Azure workload identity puts into a pod.
        "AZURE_CLIENT_ID": CLIENT,
        "AZURE_TENANT_ID": TENANT,
        "AZURE_FEDERATED_TOKEN_FILE": str(folder / "token"),
        "AZURE_AUTHORITY_HOST": authority,
        "SSL_CERT_FILE": str(azurite.tls.authority),
    }
    if service == "archiver":
        environment = {n: v for n, v in environment.items() if not n.startswith("ESP_BACKUP_")}
    program = str(Path(sys.executable).with_name(f"esp-{service}"))
    return subprocess.run([program, "doctor"], env=environment, capture_output=True, text=True, check=False)


def repository(azurite: Azurite, folder: Path, sas: str) -> Repository:
    settings = BackupSettings(**account(azurite), repository_sas_token=sas, state_folder=folder)
    found = Repository(settings, Account(None, None))
    found.configure()
    return found


async def test_pgbackrest_opens_the_container_with_a_sas_token(azurite: Azurite, tmp_path: Path) -> None:
    by_key = BackupSettings(
        blob_connection_string=azurite.connection_string, blob_ca_file=account(azurite)["blob_ca_file"]
    )
    async with Blobs(by_key) as blobs:
        await blobs.ensure()
    rights = ContainerSasPermissions(read=True, add=True, create=True, write=True, delete=True, list=True)
    until = datetime.now(UTC) + timedelta(hours=1)
    sas = generate_container_sas(
        ACCOUNT, "backup", azurite.account_key, permission=rights, expiry=until, version="2025-11-05"
    )
    assert (await repository(azurite, tmp_path / "good", sas).contents()).unreachable == {}
    wrong = sas.replace("sp=racwdl", "sp=rl")
    assert AZURE in (await repository(azurite, tmp_path / "wrong", wrong).contents()).unreachable


@pytest.mark.parametrize("service", ["archiver", "backup"])
def test_storage_account_given_twice_or_not_at_all_is_one_line(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, prefix = {
        "archiver": (ArchiverSettings, "ESP_ARCHIVER_"),
        "backup": (BackupSettings, "ESP_BACKUP_"),
    }[service]

    async def use() -> None:
        if service == "archiver":
            async with open_store(ArchiverSettings.load()):
                return
        async with Blobs(BackupSettings.load()):
            return

    with pytest.raises(InvalidInput, match="no blob storage is set") as neither:
        asyncio.run(use())
    assert neither.value.fix == f"set {prefix}BLOB_CONNECTION_STRING_FILE or {prefix}BLOB_ACCOUNT_URL"
    monkeypatch.setenv(f"{prefix}BLOB_ACCOUNT_URL", "http://esp.example")
    with pytest.raises(InvalidInput, match="blob_account_url is not like https://"):
        settings.load()
    monkeypatch.setenv(f"{prefix}BLOB_ACCOUNT_URL", "https://esp.blob.core.windows.net")
    monkeypatch.setenv(f"{prefix}BLOB_CONNECTION_STRING", "AccountName=esp;AccountKey=a2V5")
    with pytest.raises(InvalidInput) as both:
        settings.load()
    assert both.value.detail == "blob_account_url and blob_connection_string are both set; remove one"


def test_identity_library_is_not_loaded_for_a_connection_string() -> None:
    program = "import sys, esp_archiver.storage, esp_backup.blobs; print('azure.identity' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
