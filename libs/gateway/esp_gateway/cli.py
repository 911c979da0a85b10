"""`esp-gateway`: inspect and replay files, simulate a field, show spools."""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import stamina
import structlog
import typer
import yaml
from esp_common.errors import EXIT_OTHER, InvalidInput, run_cli
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from esp_gateway import accounts
from esp_gateway.client import GatewayClient
from esp_gateway.encoding import Encoding
from esp_gateway.inspection.command import inspect
from esp_gateway.mapping import FileMap, load_map
from esp_gateway.replay import Replay, open_sources
from esp_gateway.spool import DEFAULT_MAX_BYTES, Spool, SpoolState, WhenFull, read_state

EXIT_INTERRUPTED: Final = 130
SIMULATED_SPOOL_BYTES: Final = 64 << 20
_MOST_COMPLAINTS: Final = 20

app = typer.Typer(
    help="The field gateway: store-and-forward of pump readings to the platform.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

UrlOption = Annotated[
    str | None, typer.Option("--url", help="Broker, amqp[s]://host:port/vhost, without credentials.")
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="ESP_GATEWAY_CA_FILE",
        help="PEM file of the authority that signed the broker's certificate; the system's if not given.",
    ),
]
SpoolLimit = Annotated[int, typer.Option("--spool-limit", help="Most bytes that a spool keeps.", min=1 << 16)]
WhenFullOption = Annotated[
    WhenFull,
    typer.Option(
        "--when-full", help="A full spool holds readings back (refuse) or loses old ones (drop-oldest)."
    ),
]
FormatOption = Annotated[Encoding, typer.Option("--format", help="Form in which readings travel.")]

app.command("inspect")(inspect)


def main() -> None:
    """Run the command line; print operating-system errors (permissions, disk full) as one line too."""
    try:
        run_cli(app)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_OTHER)


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="CSV or Parquet files, sent in this order.")
    ],
    map_path: Annotated[Path, typer.Option("--map", help="YAML: how their records become readings.")],
    endpoints: Annotated[Path, typer.Option(help="A running stack's addresses; not used with --url.")] = Path(
        ".stack/endpoints.json"
    ),
    url: UrlOption = None,
    key_file: Annotated[Path | None, typer.Option(help="File with the gateway's key, for --url.")] = None,
    ca_file: CaFileOption = None,
    speed: Annotated[str, typer.Option(help="Times faster than measured, or max.")] = "max",
    receipt: Annotated[
        Path | None, typer.Option(help="Append every confirmed reading here, for esp-ingest reconcile.")
    ] = None,
    encoding: FormatOption = Encoding.JSON,
    spool_path: Annotated[
        Path | None,
        typer.Option("--spool", help="Spool file; the gateway's in the state folder if not given."),
    ] = None,
    spool_limit: SpoolLimit = DEFAULT_MAX_BYTES,
    when_full: WhenFullOption = WhenFull.REFUSE,
    give_up_after: Annotated[
        float, typer.Option(help="Seconds without a confirmation after which to stop; 0: never.", min=0)
    ] = 60.0,
    refused_exit: Annotated[
        int, typer.Option(help="Exit status when a row or a cell could not be taken.", min=0, max=125)
    ] = EXIT_OTHER,
) -> None:
    """Send files of pump data; an interrupted replay resumes when the command is repeated."""
    _log_to_stderr(logging.WARNING)
    file_map = load_map(map_path)
    account = _account(file_map, map_path, endpoints, url, key_file, ca_file)
    factor = _speed(speed)
    path = spool_path or state_folder() / f"{account.gateway_id}.spool"
    spool = Spool(path, account.gateway_id, max_bytes=spool_limit, when_full=when_full)
    try:
        sources = open_sources(files, map_path, file_map, spool)
        console = Console(stderr=True)
        with _progress(console) as progress:
            client = GatewayClient(account.url, account.gateway_id, spool, encoding=encoding, receipt=receipt)
            bar = progress.add_task("reading", total=1.0, confirmed=0)

            def show() -> None:
                fraction = sum(source.records.read_fraction for source in sources) / len(sources)
                progress.update(bar, completed=fraction, confirmed=client.confirmed)

            run = Replay(client, sources, file_map, _Complaints(console), show, factor, give_up_after or None)
            _interruptible(_replay(run, show), spool)
        spool.forget_bookmarks()
    finally:
        spool.close()
    if not run.is_complete:
        sys.exit(refused_exit)


async def _replay(run: Replay, show: Any) -> None:
    started = time.monotonic()
    async with run.client:
        ticker = asyncio.create_task(_every(0.2, show))
        try:
            await run.run()
        finally:
            ticker.cancel()
    show()
    already = f" ({run.skipped} more were taken earlier)" if run.skipped else ""
    by_column = ", ".join(f"{column} {count}" for column, count in run.refused_cells.most_common(10))
    print(
        f"{len(run.sources)} file(s): {run.rows} rows read{already},"
        f" {run.client.confirmed} readings confirmed,"
        f" {run.unreadable} unreadable, {run.refused_cells.total()} cells no value"
        f"{f' ({by_column})' if by_column else ''}, {time.monotonic() - started:.1f} s"
    )
    for source in run.sources:
        print(f"{source.records.path}: {source.records.lines.describe(source.records.unit)}")
    if not run.is_complete:
        print(
            "what could not be read was sent for quarantine: see `esp-ingest quarantine list`",
            file=sys.stderr,
        )
    if not run.rows and not run.skipped:
        print("no rows: nothing was sent", file=sys.stderr)


@app.command()
def simulate(
    as_assets: Annotated[
        bool,
        typer.Option(
            "--assets", help="Print the field's assets as YAML for `esp-ingest assets import`, and exit."
        ),
    ] = False,
    url: UrlOption = None,
    ca_file: CaFileOption = None,
    gateways_file: Annotated[
        Path | None,
        typer.Option(help="JSON {gateway id: key} with a key for each simulated gateway, mode 0600."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--spool", help="Folder of the gateways' spools; the state folder if not given."),
    ] = None,
    pumps: Annotated[int, typer.Option(help="Pumps in the field, ten to a gateway.", min=1, max=1000)] = 50,
    seed: Annotated[int, typer.Option(help="The same seed gives the same field.")] = 1,
    rate: Annotated[
        float, typer.Option(help="Times a minute that each pump is scanned.", min=0.1, max=600)
    ] = 6.0,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="PUMP:NAME[:SEVERITY[:HOURS AGO]]",
            help="Inject a fault, now or as if it had begun before; repeatable.",
        ),
    ] = None,
    history_h: Annotated[
        float,
        typer.Option(help="Hours that a field without spools reports before the present.", min=0, max=72),
    ] = 0,
    encoding: FormatOption = Encoding.JSON,
    spool_limit: SpoolLimit = SIMULATED_SPOOL_BYTES,
    when_full: WhenFullOption = WhenFull.DROP_OLDEST,
) -> None:
    """Run a field of simulated pumps that report in real time, until SIGTERM."""
    # The physics imports scipy, which takes longer than everything else the commands do.
    from esp_gateway.simulate import LiveField, inject, run_until_told
    from esp_gateway.simulator.field import build_field

    _log_to_stderr(logging.INFO)
    field = build_field(seed, pumps, interval_s=60 / rate)
    if as_assets:
        print(yaml.safe_dump(field.assets(), sort_keys=False), end="")
        return
    if url is None or gateways_file is None:
        raise InvalidInput("a live field needs --url and --gateways-file", fix="give both, or --assets")
    for text in faults or []:
        inject(field, text)
    live = LiveField(
        field,
        accounts.from_gateways_file(url, gateways_file, ca_file),
        folder or state_folder(),
        encoding=encoding,
        spool_limit=spool_limit,
        when_full=when_full,
        history=timedelta(hours=history_h),
    )
    asyncio.run(run_until_told(live))


@app.command()
def status(
    spools: Annotated[
        list[Path] | None, typer.Argument(metavar="[SPOOL...]", help="Spool files, or folders of them.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show the pending readings of each spool, their age, and the state of the link."""
    states = {path: read_state(path) for path in _spool_files(spools or [state_folder()])}
    if as_json:
        print(json.dumps({str(path): asdict(state) for path, state in states.items()}, indent=1))
        return
    for path, state in states.items():
        print(f"{path}\n{_describe(state, time.time())}")
    if not states:
        print("no spools")


def state_folder() -> Path:
    """Return the default folder of the gateways' spools."""
    base = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".local" / "state"
    except RuntimeError:
        raise InvalidInput(
            "this user has no home folder", fix="set XDG_STATE_HOME, or give --spool"
        ) from None
    return folder / "esp-gateway"


def _account(
    file_map: FileMap,
    map_path: Path,
    endpoints: Path,
    url: str | None,
    key_file: Path | None,
    ca_file: Path | None,
) -> accounts.Account:
    if url is None:
        account = accounts.from_endpoints(endpoints)
        if file_map.gateway_id not in (None, account.gateway_id):
            raise InvalidInput(
                f"{map_path} is for gateway {file_map.gateway_id}, but {endpoints} has the key of"
                f" {account.gateway_id}",
                fix="change gateway_id in the map, or give --url and --key-file of that gateway",
            )
        return account
    if key_file is None or file_map.gateway_id is None:
        missing = "--key-file" if key_file is None else f"gateway_id in {map_path}"
        raise InvalidInput(f"--url needs {missing}", fix=f"give {missing}")
    return accounts.from_key_file(url, file_map.gateway_id, key_file, ca_file)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise InvalidInput(f"--speed {text}", fix="give a number above 0 such as 60, or max")
    return speed


def _spool_files(paths: list[Path]) -> list[Path]:
    return [file for path in paths for file in (sorted(path.glob("*.spool")) if path.is_dir() else [path])]


def _describe(state: SpoolState, now: float) -> str:
    oldest = f", the oldest {_ago(state.oldest, now)}" if state.oldest else ""
    link = f"{state.link} (since {_ago(state.link_since, now)})" if state.in_use else "no gateway is running"
    return "\n".join(
        (
            f"  gateway       {state.gateway_id}",
            f"  waiting       {state.readings} readings in {state.batches} messages,"
            f" {state.size} bytes{oldest}",
            f"  link          {link}",
            f"  last confirm  {_ago(state.last_confirm, now)}",
            f"  in all        {state.spooled} taken, {state.confirmed} confirmed, {state.dropped} dropped",
        )
    )


def _ago(moment: float | None, now: float) -> str:
    return "never" if moment is None else f"{max(0.0, now - moment):.0f} s ago"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[confirmed]} confirmed"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class _Complaints:
    """Print the first complaints, then only that more were found."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._count = 0

    def __call__(self, line: str) -> None:
        self._count += 1
        if self._count <= _MOST_COMPLAINTS:
            self._console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        elif self._count == _MOST_COMPLAINTS + 1:
            self._console.print("more rows have problems; the quarantine lists them all", style="yellow")


async def _every(seconds: float, call: Any) -> None:
    while True:
        call()
        await asyncio.sleep(seconds)


def _interruptible(work: Coroutine[Any, Any, None], spool: Spool) -> None:
    """Run `work`; on Ctrl-C or SIGTERM stop it in order, explain the consequence, and exit."""

    async def run() -> None:
        task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel if task else work.close)
        await work

    try:
        asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError):
        spool.close()
        print(
            "interrupted; nothing is lost: the same command goes on where this one stopped", file=sys.stderr
        )
        sys.exit(EXIT_INTERRUPTED)


def _log_to_stderr(level: int) -> None:
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # These log every connection attempt with stack traces; the link's state covers it in a line.
    stamina.instrumentation.set_on_retry_hooks([])
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
