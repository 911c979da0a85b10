"""Ask ingest, which owns the assets, whether a gateway exists."""

from typing import Final

import orjson
from esp_common import topology
from esp_common.errors import BrokerUnavailable, InvalidInput, Unavailable, Unroutable
from esp_common.messaging import Requester

ANSWER_TIMEOUT_S: Final = 5.0
_FIX: Final = "try again when ingest is back, or make the key with `esp-auth api-keys create` on the server"


class KnownGateways:
    """Asks ingest whether a gateway is registered."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def check(self, gateway_id: str) -> None:
        """Raise InvalidInput for an unknown gateway, Unavailable if ingest does not answer."""
        question = orjson.dumps({"gateway_id": gateway_id})
        try:
            answer = await self._requester.request(
                topology.COMMANDS, topology.INGEST_FIND_GATEWAY, question, timeout_s=ANSWER_TIMEOUT_S
            )
            exists = orjson.loads(answer)["exists"]
        except (BrokerUnavailable, Unroutable, KeyError, TypeError, ValueError) as error:
            raise Unavailable("ingest does not say whether the gateway exists", fix=_FIX) from error
        if not exists:
            raise InvalidInput(
                f"there is no gateway {gateway_id}",
                fields=[{"where": ["body", "gateway_id"], "what": "no such gateway"}],
                fix=f"register it first: PUT /api/v1/gateways/{gateway_id}",
            )
