"""Webhooks against a real HTTP server: signed, sent again, given up; and their page."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import background
from app.errors import Invalid
from app.models import DeliveryState, Study, Webhook, WebhookDelivery, WebhookEvent
from app.services import webhooks
from tests import factories as make
from tests.conftest import free_port
from tests.routes.conftest import sign_in


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent, and answers with the next of `answers`, at last with 204."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((dict(self.headers), body))
        status = self.server.answers.pop(0) if self.server.answers else 204
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def study(db: Session) -> Study:
    study = make.make_study(db, "Alpha")
    make.make_researcher(db, study, "rosa")
    db.commit()
    return study


def webhook_to(db: Session, study: Study, url: str, *events: WebhookEvent) -> Webhook:
    webhook = webhooks.add_webhook(
        db, study, url=url, events=[event.value for event in events or webhooks.CHOSEN]
    )
    db.commit()
    return webhook


def the_delivery(db: Session) -> WebhookDelivery:
    """As it is now: in a new transaction, whose now() is later than what was done meanwhile."""
    db.rollback()
    return db.scalars(select(WebhookDelivery)).one()


def test_a_message_is_signed_and_says_what_happened(
    client: TestClient,  # noqa: ARG001 — the worker's functions find the database by it
    db: Session,
    study: Study,
    receiver: Receiver,
) -> None:
    """The batch's last label is told; the one before is not."""
    webhook = webhook_to(db, study, receiver.url, WebhookEvent.batch_labeled)
    batch = make.make_demonstration_batch(db, study, 2)
    ann = make.make_labeler(db, study)
    make.give_label(db, ann)
    assert webhooks.due(db) == []
    make.give_label(db, ann)
    db.commit()
    delivery = the_delivery(db)
    assert webhooks.due(db) == [delivery.id]
    background.deliver_webhook(delivery.id)
    background.deliver_webhook(delivery.id)  # a second message from the broker sends nothing

    ((headers, body),) = receiver.requests
    told = json.loads(body)
    assert (told["event"], told["study"]) == ("batch.labeled", "alpha")
    assert told["data"] == {"batch": batch.id, "name": "demonstrations", "kind": "demonstration"}
    moment, signature = (
        part.partition("=")[2] for part in headers["Plumbline-Signature"].split(",")
    )
    expected = hmac.new(webhook.secret.encode(), f"{moment}.".encode() + body, hashlib.sha256)
    assert hmac.compare_digest(signature, expected.hexdigest())
    delivery = the_delivery(db)
    assert (delivery.state, delivery.status) == (DeliveryState.delivered, 204)


@pytest.mark.usefixtures("client")
def test_it_is_sent_again_later_each_time_and_at_last_given_up(
    db: Session, study: Study, receiver: Receiver
) -> None:
    receiver.answers = [500, 302, *[503] * 5]
    webhooks.send_test(db, webhook_to(db, study, receiver.url))
    db.commit()
    for attempt, delay in enumerate((*webhooks.DELAYS, None), start=1):
        delivery = the_delivery(db)
        background.deliver_webhook(delivery.id)
        delivery = the_delivery(db)
        assert delivery.attempts == attempt
        assert len(receiver.requests) == attempt  # a redirect is not followed
        if delay is not None:
            assert delivery.state is DeliveryState.queued
            left = db.scalar(select(WebhookDelivery.next_at - func.now()))
            assert left is not None
            assert delay - timedelta(seconds=5) < left <= delay
            background.deliver_webhook(delivery.id)  # not due yet
            delivery.next_at = func.now()
            db.commit()
    delivery = the_delivery(db)
    assert (delivery.state, delivery.error) == (
        DeliveryState.failed,
        "The receiver answered with 503.",
    )
    webhooks.send_again(db, study, delivery.id)
    db.commit()
    background.deliver_webhook(delivery.id)
    assert the_delivery(db).state is DeliveryState.delivered


@pytest.mark.usefixtures("client")
def test_nobody_there(db: Session, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks.send_test(db, webhook_to(db, study, f"http://127.0.0.1:{free_port()}/"))
    db.commit()
    background.deliver_webhook(the_delivery(db).id)
    delivery = the_delivery(db)
    assert (delivery.state, delivery.status) == (DeliveryState.queued, None)
    assert "ConnectError" in str(delivery.error)

    monkeypatch.setattr(background, "WEBHOOK_SECONDS", 0.2)
    with Silent() as silent:
        delivery.webhook_id = webhook_to(db, study, silent.url).id
        delivery.next_at = func.now()
        db.commit()
        background.deliver_webhook(delivery.id)
    assert "No answer within" in str(the_delivery(db).error)


class Silent:
    """Takes connections and never answers."""

    def __enter__(self) -> Silent:
        import socket

        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/"
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_addresses_and_events_that_are_none(db: Session, study: Study) -> None:
    for url in ("ftp://x.org", "x.org", "http://", "http://a b", "http://x:port/", "https://[::1"):
        with pytest.raises(Invalid):
            webhooks.add_webhook(db, study, url=url, events=["batch.labeled"])
    for events in ([], ["batch.labelled"], ["test"], ["batch.labeled", "all"]):
        with pytest.raises(Invalid):
            webhooks.add_webhook(db, study, url="http://localhost/", events=events)


@pytest.mark.usefixtures("study")
def test_the_page(client: TestClient, db: Session, receiver: Receiver) -> None:
    sign_in(client, "rosa")
    here = "/studies/alpha/api"
    form = {"url": receiver.url, "events": ["snapshot.ready", "round.finished"]}
    assert client.post(f"{here}/webhooks", data={**form, "url": "x"}).status_code == 422
    client.post(f"{here}/webhooks", data=form)
    webhook = db.scalars(select(Webhook)).one()
    page = client.get(here).text
    assert receiver.url in page
    assert webhook.secret in page
    client.post(f"{here}/webhooks/{webhook.id}/test")
    assert "every 3s" in client.get(here).text
    background.deliver_webhook(the_delivery(db).id)
    page = client.get(here).text
    assert "delivered" in page
    assert "every 3s" not in page
    client.post(f"{here}/deliveries/{the_delivery(db).id}/again")
    background.deliver_webhook(the_delivery(db).id)
    assert len(receiver.requests) == 2
    client.post(f"{here}/webhooks/{webhook.id}/delete")
    db.expire_all()
    assert db.scalar(select(func.count()).select_from(WebhookDelivery)) == 0
    assert "No webhooks yet" in client.get(here).text
