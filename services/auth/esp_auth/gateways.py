"""Authorize gateways on the broker: who may connect, and under which routing keys each may publish."""

from typing import Final

import structlog
from esp_common import topology
from esp_common.auth import key_digest, key_id_of

from esp_auth.api_keys import ApiKeys
from esp_auth.granting import GATEWAY_SCOPE

log = structlog.get_logger()

_WRITE: Final = "write"


class Gateways:
    """Answer the broker's requests about gateways: username is the gateway's id, password its API key."""

    def __init__(self, api_keys: ApiKeys, *, vhost: str) -> None:
        self._api_keys = api_keys
        self._vhost = vhost

    async def may_connect(self, gateway_id: str, key: str, client_id: str | None = None) -> bool:
        """Return whether `key` is a valid key of this gateway, and `client_id` (MQTT only) one of its own.

        The broker closes a connection when another opens with the same client id, so gateways must not share
        one.
        """
        if key_id_of(key) is None or gateway_id in topology.RESERVED_GATEWAY_IDS:
            return False
        caller = await self._api_keys.verify(key_digest(key))
        if caller is None or caller.gateway_id != gateway_id or not caller.may(GATEWAY_SCOPE):
            return False
        if client_id is not None and not topology.is_client_id_of(gateway_id, client_id):
            log.warning("broker.client-id-refused", gateway_id=gateway_id, client_id=client_id)
            return False
        return True

    async def may_enter(self, gateway_id: str, vhost: str) -> bool:
        """Return whether the gateway may use the virtual host."""
        return vhost == self._vhost and await self._is_known(gateway_id)

    async def may_use(self, gateway_id: str, vhost: str, kind: str, name: str, permission: str) -> bool:
        """Return whether the gateway may `configure`, `write` or `read` the exchange or queue `name`."""
        allowed = (kind, name, permission) == ("exchange", topology.INGEST, _WRITE)
        return allowed and await self.may_enter(gateway_id, vhost)

    async def may_publish(
        self, gateway_id: str, vhost: str, exchange: str, permission: str, routing_key: str
    ) -> bool:
        """Return whether the gateway may publish under `routing_key`: its own, or one below it."""
        own = topology.telemetry_key(gateway_id)
        is_own = routing_key == own or routing_key.startswith(f"{own}.")
        return is_own and await self.may_use(gateway_id, vhost, "exchange", exchange, permission)

    async def _is_known(self, gateway_id: str) -> bool:
        if not topology.GATEWAY_ID.fullmatch(gateway_id):
            return False
        return await self._api_keys.gateway_may_write(gateway_id)
