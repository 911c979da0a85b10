"""The quarantine row that stands for the refusals of a message that have no rows of their own."""

from collections import Counter
from collections.abc import Sequence

from esp_ingest.domain.decode import Body
from esp_ingest.domain.keep import keep_body, quarantine_id
from esp_ingest.domain.readings import Quarantined, Reason, Refusals


def summarize(body: Body, refused: Sequence[tuple[Reason, str | None]]) -> Quarantined:
    """Return the row for `refused` (reason, and channel unless the whole reading is), with the whole body.

    The same message sent again gives the same id; replayed, the whole message is sent again.
    """
    payload = keep_body(body.content, body.content_type)
    reasons = Counter(reason for reason, _ in refused)
    whole = sum(channel is None for _, channel in refused)
    counts = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return Quarantined(
        quarantine_id(body.gateway_id, payload),
        body.gateway_id,
        body.message_id,
        None,
        None,
        Reason.TOO_MANY_REFUSED,
        f"{len(refused)} more refusals ({counts}) are in this message, which is kept whole",
        payload,
        rest=Refusals(whole, len(refused) - whole),
    )
