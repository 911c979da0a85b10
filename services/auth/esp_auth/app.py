"""The roles, each wired here once: what it opens, what runs side by side in it, and how it stops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

from esp_common import outbox, tokens, topology
from esp_common.answers import answer_outages
from esp_common.api_shell import Part, open_pool, open_shell
from esp_common.audit import AuditTrail
from esp_common.health import Health, serve_health
from esp_common.messaging import Publisher, Requester
from esp_common.redis import connect_redis
from esp_common.roles import until_first_ends
from esp_common.serving import make_server, serve
from starlette.types import ASGIApp

from esp_auth.answers import Answers
from esp_auth.api.api_keys import api_keys_router
from esp_auth.api.audit import audit_router
from esp_auth.api.broker import BrokerDoor, broker_router
from esp_auth.api.logins import logins_router
from esp_auth.api.users import users_router
from esp_auth.audit import AuditLog
from esp_auth.broker_log import CHECK_S, MqttGuard
from esp_auth.broker_sessions import BrokerSessions
from esp_auth.changes import SERVICE
from esp_auth.consumers import open_audit_writer
from esp_auth.domain.secrets import AUDIT_CHAIN
from esp_auth.edge_log import open_edge_log
from esp_auth.identity import Identity
from esp_auth.known_gateways import KnownGateways
from esp_auth.settings import AuthSettings
from esp_auth.worker import Questions, every

MAX_BODY_BYTES = 64 * 1024
"""No request here needs more."""
KEYS_CHECKED_S = 60.0
KEYS_REMEMBERED_S = 1.0
"""How long an API key is not looked up again: its revocation may come from a process that cannot tell."""


async def run_api(settings: AuthSettings, stop: asyncio.Event) -> None:
    """Serve the API until `stop` is set; requests under way are answered first."""
    async with open_api(settings, stop) as (application, background):
        await serve(make_server(application, settings), stop, background, settings.shutdown_delay_s)


@asynccontextmanager
async def open_api(settings: AuthSettings, stop: asyncio.Event) -> AsyncIterator[tuple[ASGIApp, list[Part]]]:
    """Put the API together; yield the application and what must run beside it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings, "api", stack, settings.database_pool_size)
        redis = connect_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        identity = Identity(pool, settings, redis, on_event=lambda event: verifier.on_event(event))
        stack.push_async_callback(identity.api_keys.close)
        # Requests that other services send over the broker are answered here from the database. So only
        # binding a key to a gateway waits for the broker, and readiness does not; events and audit records
        # are sent when it is back.
        answers = Answers(identity.api_keys, identity.signing, identity.revocations)
        verifier = tokens.Verifier(cast(Requester, answers), ttl_s=KEYS_REMEMBERED_S)
        shell = await stack.enter_async_context(
            open_shell(settings, stop, pool, verifier=verifier, needs_broker=False)
        )
        shell.health.add("signing keys", identity.signing.ensure)
        application = shell.create_app(
            [
                logins_router(identity),
                users_router(identity.users),
                api_keys_router(identity.api_keys, KnownGateways(shell.requester)),
                audit_router(AuditLog(pool, identity.derived(AUDIT_CHAIN))),
            ],
            max_body_bytes=MAX_BODY_BYTES,
        )
        answer_outages(application)
        application.include_router(broker_router(identity.gateways))
        signing = every(KEYS_CHECKED_S, identity.signing.ensure, "signing keys")
        await stack.enter_async_context(serve_health(shell.health, settings))
        yield BrokerDoor(application, settings.broker_secret), [*shell.background(), signing]


async def run_worker(settings: AuthSettings, stop: asyncio.Event) -> None:
    """Answer every service's questions, keep the audit log and relay events until `stop` is set."""
    health = Health(stop)
    health.add_flag("started", lambda: False, "connecting")
    async with serve_health(health, settings), AsyncExitStack() as stack:
        pool = await open_pool(settings, "worker", stack, settings.database_pool_size)
        redis = connect_redis(settings.redis_url)
        stack.push_async_callback(redis.aclose)
        publisher = await stack.enter_async_context(Publisher(settings.amqp_url, name="esp-auth worker"))
        writer = await stack.enter_async_context(open_audit_writer(settings, pool))
        identity = Identity(pool, settings, redis)
        stack.push_async_callback(identity.api_keys.close)
        answers = Answers(identity.api_keys, identity.signing, identity.revocations)
        consumers = [
            Questions(settings.amqp_url, question, answers, publisher) for question in topology.REQUESTS
        ]
        health.add_flag("started", lambda: True, "")
        health.add("database", lambda: pool.fetchval("SELECT 1"))
        health.add_obstacle("publisher", lambda: publisher.obstacle)
        for consumer in consumers:
            _watch(health, consumer)
        health.add_flag("audit", lambda: writer.alive, "the broker does not have this consumer")
        health.add_flag("audit store", lambda: not writer.stalled, "records wait for the database")

        periodic = [
            every(settings.revocations_copy_s, identity.revocations.copy, "revocations"),
            every(settings.tidy_s, identity.tidy, "tidying"),
        ]
        if settings.broker_management_url:
            sessions = BrokerSessions(pool, settings.broker_management_url)
            stack.push_async_callback(sessions.close)
            periodic.append(every(settings.broker_sessions_s, sessions.end_invalid, "ending broker sessions"))
            guard = MqttGuard(settings.amqp_url, sessions)
            periodic += [guard.run(), every(CHECK_S, guard.end_stuck, "ending stuck MQTT connections")]

        if settings.edge_log_socket:
            trail = AuditTrail(publisher, SERVICE, settings.audit_folder, spool_mib=settings.audit_spool_mib)
            stack.push_async_callback(trail.close)
            edge_log = stack.enter_context(open_edge_log(settings.edge_log_socket, trail))
            periodic += [edge_log.run(), trail.run()]

        async def stop_consuming() -> None:
            await stop.wait()
            await asyncio.gather(*(consumer.stop() for consumer in consumers))

        await until_first_ends(
            _all(writer.run(stop), *(consumer.run() for consumer in consumers)),
            outbox.Relay(pool, publisher, SERVICE).run(),
            *periodic,
            beside=[stop_consuming()],
        )


def _watch(health: Health, consumer: Questions) -> None:
    health.add_flag(consumer.question, lambda: consumer.alive, "the broker does not have this consumer")


async def _all(*parts: Part) -> None:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part)
