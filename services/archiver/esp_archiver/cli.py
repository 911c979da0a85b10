"""The `esp-archiver` command: one subcommand for each role, and what an operator does by hand."""

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, TypeVar

import typer
from esp_common.checks import Finding, run_check
from esp_common.cli import actor_id, group, run_command, show_rows
from esp_common.database import Pool, create_pool
from esp_common.errors import Conflict, run_cli
from esp_common.progress import Progress, progress_bar, silent
from esp_common.service_cli import add_service_commands

from esp_archiver.domain.datasets import Dataset
from esp_archiver.settings import ArchiverSettings

Result = TypeVar("Result")
Share = Annotated[float, typer.Option(min=0, max=1, help="Share to read, 0 to 1, least recently read first.")]
FieldOption = Annotated[str | None, typer.Option("--field", help="Only readings of this field.")]
DatasetOption = Annotated[Dataset | None, typer.Option("--dataset", help="Only this.")]
From = Annotated[datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day.")]
To = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Day after the last.")]

PLAN_COLUMNS: Final = ("object", "rows", "replaces")

app = group("Keeps history in blob storage as Parquet, proves it is there, and reads it back.")


ROLES: Final = {
    "api": "Serve the HTTP API.",
    "worker": "Archive on schedule and on request, and restore archived readings.",
}

add_service_commands(app, ArchiverSettings, ROLES)


@app.command("doctor")
def doctor() -> None:
    """Check the catalogue and the blob storage; exit 1 when a check fails."""

    async def command() -> list[Finding]:
        async with _tools() as tools:

            async def catalogue() -> str:
                await tools.pool.fetchval("SELECT 1")
                return "answers"

            async def storage() -> str:
                await tools.store.ensure()
                return f"container {tools.settings.blob_container}, by {tools.settings.credential_kind}"

            return [await run_check("catalogue", catalogue), await run_check("storage", storage)]

    findings = _run(command())
    show_rows(("check", "result", "detail"), (finding.row for finding in findings))
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


@app.command("plan")
def show_plan() -> None:
    """Show what a run would write, without writing it."""

    async def command() -> None:
        async with _tools() as tools:
            plans = await tools.archive().plan(datetime.now(UTC).date())
        exports = [export for plan in plans for export in plan.exports]
        show_rows(
            PLAN_COLUMNS,
            ([each.place.name, each.content.rows, "yes" if each.replaces else None] for each in exports),
        )

    _run(command())


@app.command("run")
def run_now(field: FieldOption = None, since: From = None, until: To = None) -> None:
    """Archive all that is due, or of it a field and a span, here and now; fails if any of it could not be."""

    async def command() -> None:
        failed: list[str] = []
        with progress_bar() as progress:
            await archive(failed, progress)
        if failed:
            raise Conflict("not all of it could be archived", fix="see the run's problem, then run it again")

    async def archive(failed: list[str], progress: Progress) -> None:
        from esp_archiver.runs import Selection
        from esp_archiver.store import manifest
        from esp_archiver.store.runs import ask_run
        from esp_archiver.worker import work_once

        async with _tools(progress) as tools, manifest.leading(tools.pool) as lead:
            if lead is None:
                raise Conflict("a worker is at it", fix="ask it by POST archive/runs, or stop it first")
            selection = Selection(field, _day(since), _day(until))
            if selection != Selection():
                outcome = await tools.archive().run(lead, datetime.now(UTC).date(), selection)
                typer.echo(outcome.text())
                for problem in outcome.problems:
                    typer.echo(problem, err=True)
                failed += outcome.problems
            else:
                run = await ask_run(tools.pool, actor_id())
                await work_once(lead, tools.archive(), tools.reader(), failed.append)
                await tools.show_run(run.run_id)

    _run(command())


@app.command("verify")
def verify(share: Share = 1, dataset: DatasetOption = None, since: From = None, until: To = None) -> None:
    """Read a share of the archive and hold it against its manifest; fails if anything is not as it was."""

    async def command() -> None:
        from esp_archiver.store.manifest import PartFilter
        from esp_archiver.verification import check

        wanted = PartFilter(dataset, None, _day(since), _day(until))
        with progress_bar() as progress:
            async with _tools() as tools:
                folder = tools.settings.work_folder
                checked = await check(tools.pool, tools.store, wanted, share, folder, progress)
        for problem in checked.problems:
            typer.echo(problem, err=True)
        typer.echo(f"{checked.parts} parts read, {checked.bytes} bytes, {len(checked.problems)} damaged")
        if checked.problems:
            raise Conflict(
                f"{len(checked.problems)} parts are damaged", fix="restore an older version of them"
            )

    _run(command())


@app.command("rebuild-manifest")
def rebuild_manifest() -> None:
    """Enter every object that the manifest does not have, each read whole and proved first."""

    async def command() -> None:
        from esp_archiver.rebuilding import rebuild
        from esp_archiver.store import manifest

        with progress_bar() as progress:
            async with _tools() as tools, manifest.leading(tools.pool) as lead:
                if lead is None:
                    raise Conflict("a worker is at it", fix="stop it first")
                rebuilt = await rebuild(lead, tools.store, tools.settings.work_folder, progress)
        for problem in rebuilt.problems:
            typer.echo(problem, err=True)
        typer.echo(
            f"{rebuilt.entered} parts entered, {rebuilt.refreshed} found under another tag, "
            f"{rebuilt.known} known, {len(rebuilt.problems)} unusable"
        )

    _run(command())


# --- shared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tools:
    """What a command needs: the settings, a few connections to the database, and the store."""

    settings: ArchiverSettings
    pool: Pool
    store: Any
    progress: Progress

    def archive(self) -> Any:
        from esp_archiver.runs import Archive

        return Archive(self.pool, self.store, self.settings, self.progress)

    def reader(self) -> Any:
        from esp_archiver.reading import Reader

        return Reader(self.pool, self.store)

    async def show_run(self, run_id: Any) -> None:
        from esp_archiver.store.runs import find_run

        run = await find_run(self.pool, run_id)
        if run is not None:
            typer.echo(f"{run.state}: {run.days} days, {run.parts} parts, {run.rows} rows, {run.bytes} bytes")
            if run.problem:
                typer.echo(run.problem, err=True)


@asynccontextmanager
async def _tools(progress: Progress = silent) -> AsyncIterator[_Tools]:
    from esp_archiver.storage import open_store

    settings = ArchiverSettings.load().model_copy(update={"statement_timeout_s": 0})
    async with (
        await create_pool(settings, role="esp-archiver cli", min_size=0, max_size=4) as pool,
        open_store(settings) as store,
    ):
        yield _Tools(settings, pool, store, progress)


def _run(command: Coroutine[Any, Any, Result]) -> Result:
    return run_command(command, away="the database", fix="check ESP_ARCHIVER_DATABASE_URL")


def _day(time: datetime | None) -> date | None:
    return time and time.date()


def main() -> None:
    """Run the command."""
    run_cli(app)
