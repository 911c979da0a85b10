"""Each service of the native stack runs as an account of its own and cannot read the files of another."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from esp_stack import accounts, programs
from esp_stack.accounts import ACCOUNTS, check_accounts, shared_account_warning
from esp_stack.programs import Program, StackError, private_file, private_folder
from esp_stack.roles import SIMULATOR, Roles
from esp_stack.stack import Stack
from readable import files_readable_by

IS_ROOT = os.geteuid() == 0
SERVICES = ("auth", "ingest", "diagnostics", "archiver", "backup")


@pytest.fixture(scope="module")
def stack(server_home: Path) -> Stack:
    """A stack that has never been started."""
    return Stack(server_home / "accounts")


@pytest.fixture(scope="module")
def programs_of(stack: Stack) -> dict[str, Program]:
    """Every process of the stack, its files written."""
    roles = Roles(stack)
    everything = [role.program for role in roles.all()]
    everything += [*roles.migrations(), roles.bootstrap(), stack.openbao.programs()[0]]
    for server in (stack.openbao, stack.azurite, stack.redis, stack.nginx, stack.rabbitmq):
        server.prepare()
    for program in everything:
        folder = program.environment.get(f"{_prefix(program)}_AUDIT_FOLDER")
        if folder:
            private_file(Path(folder) / "1.audit", "a record", program.user)
    private_file(stack.homes / "spool" / "gw-01.sqlite", "a reading", everything[12].user)
    return {program.name: program for program in (*everything, *stack.azurite.programs())}


def _prefix(program: Program) -> str:
    return program.name.rsplit("-", 1)[0].join(("esp-", "")).replace("-", "_").upper()


def test_every_service_and_every_schema_owner_has_an_account_of_its_own(programs_of):
    users = {name: program.user for name, program in programs_of.items()}
    if not IS_ROOT:
        assert set(users.values()) == {None}
        return
    for service in SERVICES:
        assert users[f"{service}-api"] == f"esp-{service}"
        assert users[f"{service}-migrate"] == f"esp-{service}-owner"
    assert users["ingest-maintenance"] == "esp-ingest-owner"
    assert users["backup-worker"] == "postgres"
    assert users[SIMULATOR] == "esp-gateway"
    assert (users["openbao"], users["azurite"]) == ("esp-vault", "esp-blob")
    assert set(users.values()) - {"postgres"} == set(ACCOUNTS)


@pytest.mark.parametrize("user", [*ACCOUNTS, "postgres", "redis", "rabbitmq", "www-data"])
def test_an_account_reads_its_own_files_and_no_secret_spool_or_audit_file_of_another(
    programs_of, stack, user
):
    if not IS_ROOT:
        assert "one account" in str(shared_account_warning())
        return
    readable = files_readable_by(user, stack.folder)
    foreign = {path for path in readable if path.owner() != user}
    assert {path.name for path in foreign} <= {"ports.json"}
    names = {path.name for path in readable}
    expected = {
        "esp-ingest": {"ingest.amqp_url", "esp_ingest.database", "1.audit"},
        "esp-ingest-owner": {"ingest.amqp_url", "esp_ingest_owner.database", "1.audit"},
        "esp-auth": {"auth.master_key", "auth.bootstrap", "1.audit"},
        "esp-gateway": {"gateway.keys", "gw-01.sqlite"},
        "postgres": {"backup.encryption_key", "esp_backup.database"},
        "esp-vault": {"seal.key"},
        "esp-blob": {"account"},
    }
    assert names >= expected.get(user, set())


def test_no_service_has_the_login_of_its_schemas_owner(programs_of, stack):
    for service in SERVICES:
        names = {program.user for name, program in programs_of.items() if name == f"{service}-api"}
        for user in names - {None}:
            readable = files_readable_by(str(user), stack.folder)
            assert [path for path in readable if "owner" in path.name] == []


def test_files_follow_when_a_folder_gets_another_account(tmp_path):
    folder = private_folder(tmp_path / "spool", None)
    (folder / "inner").mkdir()
    (folder / "inner" / "kept").write_text("kept")
    if IS_ROOT:
        private_folder(folder, "esp-gateway")
        assert {path.owner() for path in (folder, *folder.rglob("*"))} == {"esp-gateway"}
    assert (folder / "inner" / "kept").read_text() == "kept"


def test_a_missing_account_is_named_with_what_creates_it(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(accounts, "ACCOUNTS", (*ACCOUNTS, "esp-nobody-made-this"))
    with pytest.raises(StackError, match=r"accounts are missing: .*esp-nobody-made-this — run `make up`"):
        check_accounts()


@pytest.fixture
def one_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever runs this test is not root, as far as the stack can tell."""
    programs.separate_accounts.cache_clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    yield
    monkeypatch.undo()
    programs.separate_accounts.cache_clear()


@pytest.mark.usefixtures("one_account")
def test_without_root_all_processes_run_as_one_account_and_it_is_said(server_home):
    roles = Roles(Stack(server_home / "one-account"))
    assert {role.program.user for role in roles.all()} == {None}
    assert str(shared_account_warning()).startswith(
        "WARNING: all processes of this checkout run as one account"
    )


def test_with_separate_accounts_there_is_nothing_to_warn_of():
    assert (shared_account_warning() is None) == IS_ROOT
