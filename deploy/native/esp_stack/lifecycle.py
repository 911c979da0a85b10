"""Bringing the stack up, down and away."""

import fcntl
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from esp_platform.databases import ensure_database, ensure_login_maker
from esp_platform.identities import APP_ROLES

from esp_stack.accounts import check_accounts
from esp_stack.certificates import renew
from esp_stack.configuration import keep_configuration
from esp_stack.endpoints import write_endpoints, write_environment
from esp_stack.failures import START_FAILURES, start_failure
from esp_stack.plain_http import ask
from esp_stack.programs import Program, StackError, give, is_free, private_file, wait_for
from esp_stack.roles import ROLES, Role, Roles
from esp_stack.servers import Server
from esp_stack.stack import DATABASE, Stack
from esp_stack.supervision import StartWatch

READY_TIMEOUT_S = 180
LAYOUT = "5"
"""Of what the stack writes. A running stack of another layout is stopped before it is started as this one."""
ORPHANS_TIMEOUT_S = 60
PAUSE_S = 0.2
"""Between looks at what is starting: looking takes CPU from it."""

Say = Callable[[str], None]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the stack's lock: two people may say `make up` at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(stack: Stack, say: Say) -> None:
    """Start whatever does not run and return when all of it is ready; harmless when it is already.

    When a part does not start, what this call started is stopped again.
    """
    ran_before = {state.name for state in stack.supervisor.states() if state.pid}
    try:
        _start_all(stack, say)
    except BaseException:
        if stack.supervisor.pid is not None:
            say("Stopping what was started")
            _stop_started(stack, ran_before)
        raise


def _stop_started(stack: Stack, ran_before: set[str]) -> None:
    """Stop what does not belong to `ran_before`; all of the stack if nothing ran."""
    if not ran_before:
        down(stack)
        return
    started = [
        state.name
        for state in stack.supervisor.states()
        if state.state != "stopped" and state.name not in ran_before
    ]
    stack.supervisor.stop_programs(started)


def _start_all(stack: Stack, say: Say) -> None:
    check_accounts()
    _stop_earlier_layout(stack, say)
    roles = Roles(stack)
    everything = roles.all()
    fresh = stack.supervisor.pid is None
    if fresh:
        _wait_for_orphans(stack)
        _prepare_server(stack.openbao)
    stack.supervisor.configure(
        [
            *(program for server in stack.servers for program in server.programs()),
            *(role.program for role in everything),
        ],
        stack.homes,
    )
    stack.supervisor.start()
    stack.supervisor.run(stack.openbao.programs())
    _wait_server(stack, stack.openbao)
    renewed = _renew_certificates(stack)
    for server in stack.servers:
        if fresh and server is not stack.openbao:
            _prepare_server(server)
        if not fresh and server in renewed:
            say(f"{server.name} has a new certificate: restarting it")
            stack.supervisor.restart(server.programs())
        stack.supervisor.run(server.programs())
    running = {state.name for state in stack.supervisor.states() if state.state == "running"}
    if not running.issuperset(ROLES):
        say(f"Servers starting; storage engine: {stack.engine}")
        _prepare_data(stack, roles)
        say("Servers ready, database migrated; services starting")
        stack.supervisor.run(role.program for role in everything)
    for role in everything:
        _wait_role(stack, role)
    write_endpoints(stack)
    write_environment(stack)
    keep_configuration(stack)


def down(stack: Stack) -> None:
    """Stop everything, what needs a server while that still answers, and leave all data."""
    database = [program.name for program in stack.postgres.programs()]
    # The database archives what it wrote last to the blob storage.
    stack.supervisor.stop(ROLES, database)
    (stack.folder / "endpoints.json").unlink(missing_ok=True)


def clean(stack: Stack) -> None:
    """Stop everything and remove all that the stack ever wrote."""
    down(stack)
    shutil.rmtree(stack.homes)
    shutil.rmtree(stack.folder, ignore_errors=True)


def _prepare_data(stack: Stack, roles: Roles) -> None:
    """Wait for the servers, fill the vault, bring schemas up to date and the simulated field's assets in."""
    with ThreadPoolExecutor(1) as meanwhile:
        generated = meanwhile.submit(_run_once, roles.simulated_assets())
        _wait_server(stack, stack.postgres)
        _prepare_database(stack, roles)
        assets = stack.homes / "simulated-field.yaml"
        assets.write_text(generated.result())
    give(assets, None, 0o644)
    _run_once(roles.import_assets(assets))
    for server in stack.servers:
        _wait_server(stack, server)


def _prepare_database(stack: Stack, roles: Roles) -> None:
    """Make the database, fill the vault that makes logins in it, bring schemas up to date, add first keys."""
    ensure_database(stack.postgres.admin_url, DATABASE, timescale=stack.postgres.has_timescale)
    _fill_vault(stack, roles)
    # While the broker, the slowest to start, is still at it.
    for migration in roles.migrations():
        _run_once(migration)
    try:
        _run_once(roles.bootstrap())
    finally:
        roles.bootstrap_file.unlink(missing_ok=True)


def _stop_earlier_layout(stack: Stack, say: Say) -> None:
    """Stop a stack that a version of another layout started: its servers do not speak as ours expect."""
    layout = stack.folder / "layout"
    if stack.supervisor.pid is not None and not (layout.exists() and layout.read_text() == LAYOUT):
        say("The running stack was started by another version: stopping it first")
        down(stack)
    if not (layout.exists() and layout.read_text() == LAYOUT):
        # They are written again, each for the account that reads it now.
        for folder in ("secrets", "secrets-of-cluster"):
            shutil.rmtree(stack.homes / folder, ignore_errors=True)
    layout.write_text(LAYOUT)


def _renew_certificates(stack: Stack) -> list[Server]:
    """Have a good certificate for every server that needs one; return those whose was replaced."""
    stack.vault.ensure_engines()
    authority = stack.vault.ensure_authority()
    if not stack.ca_file.exists() or stack.ca_file.read_text() != authority:
        give(private_file(stack.ca_file, authority, None), None, 0o644)
    renewed = []
    for server, tls in stack.certificates.items():
        tls.server.parent.mkdir(exist_ok=True)
        tls.server.parent.chmod(0o711)
        if renew(tls, stack.vault.issue_certificate, server.user):
            renewed.append(server)
    return renewed


def _fill_vault(stack: Stack, roles: Roles) -> None:
    """Have in the vault what the services read, and database logins made for them."""
    ensure_login_maker(stack.postgres.admin_url, stack.login_maker_password)
    stack.vault.ensure_logins(
        stack.postgres.address("postgres", login="{{username}}:{{password}}@"),
        stack.login_maker_password,
        [app_role.database_role for app_role in APP_ROLES],
    )
    roles.fill_vault()


def _wait_for_orphans(stack: Stack) -> None:
    """Wait until what a killed supervisord left behind has ended; the kernel has told it to."""

    def check() -> None:
        taken = [name for name, port in stack.ports.items() if not is_free(port)]
        if taken:
            raise ConnectionError(f"still listening: {', '.join(taken)}")

    wait_for(check, "what an earlier stack left behind", ORPHANS_TIMEOUT_S)


def _run_once(program: Program) -> str:
    """Run `program` to its end and return what it printed; raise with what it complained about."""
    done = subprocess.run(
        program.command(),
        cwd=program.folder,
        env=program.full_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        complaint = " / ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise start_failure(program.name, StackError(f"{' '.join(program.argv)} failed: {complaint}"))
    return done.stdout


def _prepare_server(server: Server) -> None:
    try:
        server.prepare()
    except START_FAILURES as failure:
        raise server.start_failure(failure, ()) from failure


def _wait_server(stack: Stack, server: Server) -> None:
    names = [program.name for program in server.programs()]
    try:
        server.wait_ready(StartWatch(stack.supervisor, names).check)
    except START_FAILURES as failure:
        raise server.start_failure(failure, [stack.supervisor.log(name) for name in names]) from failure


def _wait_role(stack: Stack, role: Role) -> None:
    name, url = role.program.name, role.ready_url
    if url is None:
        return
    watch = StartWatch(stack.supervisor, [name])

    def check() -> None:
        watch.check()
        ask("GET", url, timeout=2).raise_for_status()

    try:
        wait_for(check, name, READY_TIMEOUT_S, PAUSE_S)
    except StackError as failure:
        raise start_failure(name, failure, [stack.supervisor.log(name)]) from failure
