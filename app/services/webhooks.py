"""Webhooks: who is told what happens in a study, and the messages that wait to be sent.

A message is signed: the header Plumbline-Signature holds `t=SECONDS,v1=HEX`, where HEX is the
HMAC-SHA256 of "SECONDS.BODY" under the webhook's secret. A receiver that answers with 2xx has it;
otherwise it is sent again, later each time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from app.db import enqueue
from app.errors import Invalid, NotFound
from app.models import DeliveryState, Study, User, Webhook, WebhookDelivery, WebhookEvent

SIGNATURE: Final = "Plumbline-Signature"
CHOSEN: Final = tuple(event for event in WebhookEvent if event is not WebhookEvent.test)
# How long to wait after each failure; a message that fails once more is given up.
DELAYS: Final = tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 3_600, 6 * 3_600))
SHOWN: Final = 20  # deliveries on a page
LEASE: Final = timedelta(seconds=60)  # nobody else sends it meanwhile


@dataclass(frozen=True, kw_only=True)
class Message:
    """One attempt to send: what goes where."""

    delivery_id: int
    url: str
    body: bytes
    headers: Mapping[str, str]


def add_webhook(
    session: Session,
    study: Study,
    *,
    url: str,
    events: Collection[str],
    created_by: User | None = None,
) -> Webhook:
    """Tell this address of these events. Raises Invalid for either.

    Any host is allowed, those of one's own network too: a study's researchers are trusted with it.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        sound = False
    if not sound or len(url) > 2_000 or any(c.isspace() or ord(c) < 32 for c in url):
        raise Invalid("A webhook's address begins with http:// or https:// and names a host.")
    chosen = [event.value for event in CHOSEN if event.value in events]
    if not chosen or len(chosen) != len(set(events)):
        raise Invalid(f"Choose what to be told of: {', '.join(CHOSEN)}.")
    webhook = Webhook(
        study_id=study.id,
        url=url,
        secret=f"whsec_{secrets.token_urlsafe(24)}",
        events=chosen,
        created_by=created_by.id if created_by else None,
    )
    session.add(webhook)
    session.flush()
    return webhook


def find_webhook(session: Session, study: Study, webhook_id: int) -> Webhook:
    """Raises NotFound if the study has no such webhook."""
    webhook = session.get(Webhook, webhook_id)
    if webhook is None or webhook.study_id != study.id:
        raise NotFound("There is no such webhook in this study.")
    return webhook


def webhooks_of(session: Session, study: Study) -> list[Webhook]:
    return list(
        session.scalars(select(Webhook).where(Webhook.study_id == study.id).order_by(Webhook.id))
    )


def deliveries_of(session: Session, study: Study) -> list[WebhookDelivery]:
    """The study's last messages, newest first."""
    return list(
        session.scalars(
            select(WebhookDelivery)
            .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
            .where(Webhook.study_id == study.id)
            .order_by(WebhookDelivery.id.desc())
            .limit(SHOWN)
            .options(joinedload(WebhookDelivery.webhook))
        )
    )


def announce(session: Session, study_id: int, event: WebhookEvent, data: Mapping[str, Any]) -> None:
    """Queue a message to each webhook of the study that wants this event."""
    wanted = select(Webhook).where(
        Webhook.study_id == study_id, Webhook.events.contains([event.value])
    )
    for webhook in session.scalars(wanted):
        _queue(session, webhook, event, data)


def send_test(session: Session, webhook: Webhook) -> WebhookDelivery:
    """Queue a message that says nothing, to see whether it arrives."""
    return _queue(session, webhook, WebhookEvent.test, {})


def _queue(
    session: Session, webhook: Webhook, event: WebhookEvent, data: Mapping[str, Any]
) -> WebhookDelivery:
    study = session.get_one(Study, webhook.study_id)
    delivery = WebhookDelivery(
        webhook_id=webhook.id,
        event=event.value,
        payload={
            "event": event.value,
            "study": study.slug,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "data": dict(data),
        },
    )
    session.add(delivery)
    session.flush()
    enqueue(session, "deliver_webhook", delivery.id)
    return delivery


def send_again(session: Session, study: Study, delivery_id: int) -> WebhookDelivery:
    """Queue a message once more, at once. Raises NotFound."""
    delivery = session.scalar(
        select(WebhookDelivery)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(WebhookDelivery.id == delivery_id, Webhook.study_id == study.id)
        .with_for_update(of=WebhookDelivery)
    )
    if delivery is None:
        raise NotFound("There is no such delivery in this study.")
    delivery.state = DeliveryState.queued
    delivery.attempts = 0
    delivery.next_at = func.now()
    session.flush()
    enqueue(session, "deliver_webhook", delivery.id)
    return delivery


def sign(secret: str, body: bytes, moment: int) -> str:
    """The signature header of a body sent at `moment`, in seconds since the epoch."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    return f"t={moment},v1={digest.hexdigest()}"


def claim(session: Session, delivery_id: int) -> Message | None:
    """Take a message that is due, so that nobody else sends it meanwhile; None if it is not due."""
    delivery = session.scalar(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.id == delivery_id,
            WebhookDelivery.state == DeliveryState.queued,
            WebhookDelivery.next_at <= func.now(),
        )
        .with_for_update(skip_locked=True)
    )
    if delivery is None:
        return None
    delivery.attempts += 1
    delivery.next_at = func.now() + LEASE
    session.flush()
    webhook = session.get_one(Webhook, delivery.webhook_id)
    payload = {"id": delivery.id, **delivery.payload}
    body = json.dumps(payload, ensure_ascii=False).encode()
    return Message(
        delivery_id=delivery.id,
        url=webhook.url,
        body=body,
        headers={
            "Content-Type": "application/json",
            "User-Agent": "Plumbline",
            "Plumbline-Event": delivery.event,
            SIGNATURE: sign(webhook.secret, body, int(datetime.now(UTC).timestamp())),
        },
    )


def settle(session: Session, delivery_id: int, *, status: int | None, error: str | None) -> None:
    """Write down how the attempt ended; without a 2xx it is due again, or given up."""
    delivery = session.get(WebhookDelivery, delivery_id, with_for_update=True)
    if delivery is None:  # its webhook was taken away
        return
    delivery.status, delivery.error = status, error
    if status is not None and 200 <= status < 300:
        delivery.state = DeliveryState.delivered
        delivery.delivered_at = func.now()
    elif delivery.attempts > len(DELAYS):
        delivery.state = DeliveryState.failed
    else:
        delivery.next_at = func.now() + DELAYS[delivery.attempts - 1]
    session.flush()


def due(session: Session) -> list[int]:
    """Messages to send now."""
    return list(
        session.scalars(
            select(WebhookDelivery.id)
            .where(
                WebhookDelivery.state == DeliveryState.queued,
                WebhookDelivery.next_at <= func.now(),
            )
            .order_by(WebhookDelivery.id)
        )
    )
