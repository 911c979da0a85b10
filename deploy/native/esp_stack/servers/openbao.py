"""OpenBao: a server with Vault's API, initialised once, which unseals itself when it restarts."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx

from esp_stack.plain_http import ask
from esp_stack.programs import Program, executable, free_port, own_account, private_file, private_folder
from esp_stack.servers.server import Server

CONFIGURATION = """\
ui = false
disable_mlock = true
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_disable = true
}}
storage "raft" {{
  path = "{home}/data"
  node_id = "esp"
  # The only node: it need not wait long for others before it leads.
  performance_multiplier = 1
}}
seal "static" {{
  current_key_id = "1"
  current_key = "file://{home}/seal.key"
}}
audit "file" "file" {{
  options {{
    file_path = "{home}/audit.log"
    mode = "0600"
  }}
}}
"""
LARGEST_AUDIT_BYTES = 100_000_000
"""Size above which a start begins a new audit log, keeping the last one."""


class OpenBao(Server):
    """One OpenBao server; its root token is in a file of its home, made at the first start."""

    name = "openbao"
    data_remedy = "move {home} away: `make up` then makes a new vault, a new authority and new certificates"

    def __init__(self, home: Path, *, port: int | None = None, cluster_port: int | None = None) -> None:
        super().__init__(home, own_account("esp-vault"))
        self.port = port or free_port()
        self.cluster_port = cluster_port or free_port()

    @property
    def url(self) -> str:
        """Base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The root token."""
        return str(json.loads(self._initialisation.read_text())["root_token"])

    def api(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Call the API as root and return its answer, whatever it is."""
        headers = {"X-Vault-Token": self.token}
        return ask(method, f"{self.url}/v1/{path}", json=body, headers=headers, timeout=30)

    def programs(self) -> Sequence[Program]:
        """Return the one process."""
        bao = executable("bao", str(Path(sys.executable).parent))
        argv = (bao, "server", "-config", str(self.home / "openbao.hcl"))
        return [Program(self.name, argv, self.home, self.user)]

    def configure(self) -> None:
        """Write the configuration and, the first time, the key that unseals the storage."""
        private_folder(self.home / "data", self.user)
        if not (self.home / "seal.key").exists():
            private_file(self.home / "seal.key", token_hex(32), self.user)
        if self._audit.exists() and self._audit.stat().st_size > LARGEST_AUDIT_BYTES:
            self._audit.replace(self._audit.with_name("audit.log.1"))
        text = CONFIGURATION.format(port=self.port, cluster_port=self.cluster_port, home=self.home)
        private_file(self.home / "openbao.hcl", text, self.user)

    def check(self) -> None:
        """Raise unless the server is initialised (which this does the first time), unsealed and active."""
        if not self._initialisation.exists() and not self._sys("GET", "init")["initialized"]:
            answer = self._sys("PUT", "init", {"recovery_shares": 1, "recovery_threshold": 1})
            private_file(self._initialisation, json.dumps(answer), self.user)
        ask("GET", f"{self.url}/v1/sys/health", timeout=2).raise_for_status()

    def _sys(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        response = ask(method, f"{self.url}/v1/sys/{path}", json=body, timeout=30)
        answer: dict[str, Any] = response.raise_for_status().json()
        return answer

    @property
    def _audit(self) -> Path:
        return self.home / "audit.log"

    @property
    def _initialisation(self) -> Path:
        return self.home / "initialisation.json"
