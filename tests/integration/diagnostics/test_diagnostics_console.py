"""The console's files: served by the API to everybody, complete, and held to a strict policy."""

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any, Final

import httpx
import pytest
from esp_common.auth import Principal
from esp_common.contracts.channels import CHANNEL_NAMES
from esp_common.errors import Unauthenticated
from esp_common.health import Health
from esp_common.http import create_app
from esp_diagnostics.console.routes import console_router

CONSOLE: Final = Path(str(files("esp_diagnostics.console").joinpath("static")))
MODULES: Final = sorted(path.relative_to(CONSOLE).as_posix() for path in CONSOLE.rglob("*.js"))
NOTICE: Final = "Only for <b>staff</b> of 'North'."
IMPORT: Final = re.compile(r'^import .*?from "([^"]+)";', re.MULTILINE | re.DOTALL)


class Nobody:
    """Knows no credential: the console's files need none."""

    def cached(self, credential: str, /) -> Principal | None:
        return None

    async def verify(self, credential: str, /) -> Principal:
        raise Unauthenticated("nobody is known here")


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has only the console."""
    app = create_app("console", health=Health(), verifier=Nobody())
    app.include_router(console_router(NOTICE))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        yield client


async def test_the_page_is_served_at_the_root_with_a_strict_policy(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


async def test_every_referenced_file_is_served_with_its_type(client: httpx.AsyncClient) -> None:
    page = (await client.get("/")).text
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert named
    for module in MODULES:
        source = (CONSOLE / module).read_text()
        named |= {"/console/" + normpath(join(dirname(module), each)) for each in IMPORT.findall(source)}
        named |= set(re.findall(r'"(/console/[\w./-]+)"', source))
    types = {}
    for path in sorted(named):
        answer = await client.get(path)
        assert answer.status_code == 200, path
        types[path.rpartition(".")[2]] = answer.headers["content-type"].partition(";")[0]
    assert types == {
        "js": "text/javascript",
        "css": "text/css",
        "svg": "image/svg+xml",
        "json": "application/json",
    }


async def test_the_channels_are_those_of_the_contract(client: httpx.AsyncClient) -> None:
    channels = (await client.get("/console/channels.json")).json()
    assert [channel["name"] for channel in channels] == list(CHANNEL_NAMES)
    assert all(channel["unit"] and channel["group"] for channel in channels)


async def test_the_login_notice_is_configurable(client: httpx.AsyncClient) -> None:
    assert (await client.get("/console/notice.json")).json() == {"text": NOTICE}
    assert "notice.json" in (CONSOLE / "views/login.js").read_text()


async def test_an_unchanged_file_returns_304(client: httpx.AsyncClient) -> None:
    first = await client.get("/console/app.js")
    again = await client.get("/console/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["nothing.js", "../app.py", "..%2f..%2fapp.py", "%2e%2e/%2e%2e/settings.py", "views", "/etc/passwd", ""],
)
async def test_other_paths_are_not_served(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/console/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_page_has_no_inline_script_or_style() -> None:
    page = (CONSOLE / "index.html").read_text()
    assert "<style" not in page
    assert not re.search(r"\s(style|on\w+)=", page)
    assert re.findall(r"<script\b[^>]*>(.*?)</script>", page, re.DOTALL) == [""]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_neither_builds_markup_from_text_nor_stores_a_token(module: str) -> None:
    source = (CONSOLE / module).read_text()
    parsing = (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
    )
    assert [name for name in parsing if name in source] == []
    assert re.findall(r"\b(?:sessionStorage|indexedDB|document\.cookie)\b", source) == []
    kept: list[Any] = re.findall(r"localStorage\.\w+\(([^,)]+)", source)
    assert set(kept) <= {'"theme"', "name"}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_well_formed(module: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("this machine has no node to read it")
    source = (CONSOLE / module).read_bytes()
    read = subprocess.run(
        [node, "--input-type=module", "--check"], input=source, capture_output=True, timeout=30, check=False
    )
    assert read.returncode == 0, read.stderr.decode()


def without_guessing(node: str) -> list[str]:
    """Have a newer Node take a file for what its package.json says, as Debian's Node 18 does."""
    known = 'process.allowedNodeEnvironmentFlags.has("--experimental-detect-module")'
    answer = subprocess.run([node, "-p", known], capture_output=True, text=True, timeout=30, check=True)
    return ["--no-experimental-detect-module"] if answer.stdout.strip() == "true" else []


async def test_files_for_node_are_not_served(client: httpx.AsyncClient) -> None:
    assert (CONSOLE / "package.json").exists()
    assert (await client.get("/console/package.json")).status_code == 404


def test_numbers_times_and_ticks_are_formatted() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("this machine has no node to run it")
    script = f"""
        import {{lasting, num, when, words}} from "{CONSOLE.as_uri()}/dom.js";
        import {{niceTicks}} from "{CONSOLE.as_uri()}/trends.js";
        console.log(JSON.stringify([
            [null, 0, 0.1234, 12.34, 123.4, 12345.6].map(value => num(value)),
            [5, 125, 7260, 180000].map(lasting),
            when("2026-05-01T13:05:09Z"), words("gas_interference"),
            [...niceTicks(-3, 47, 4)],
            [...niceTicks(0.2, 0.5, 3)].map(tick => num(tick)), niceTicks(0.2, 0.5, 3).places,
        ]));
    """
    ran = subprocess.run(
        [node, *without_guessing(node), "--input-type=module"],
        input=script.encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ran.stdout.decode().strip() == (
        '[["–","0","0.12","12.3","123","12,346"],["5 s","2 min","2 h 1 min","2 d 2 h"],'
        '"2026-05-01 13:05","Gas interference",[0,20,40],["0.2","0.3","0.4","0.5"],1]'
    ), ran.stderr.decode()
