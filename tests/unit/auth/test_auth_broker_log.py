"""What auth reads in the broker's log, and which client ids a gateway may use."""

import pytest
from esp_auth.broker_log import channel_error_on, taken_over
from esp_common import topology

AT = b"2026-11-28 17:31:59.050120+00:00"
NAME = "127.0.0.1:47301 -> 127.0.0.1:16072"
CHANNEL_ERROR = (
    AT + b" [error] <0.2449.0> Channel error on connection <0.2344.0> (" + NAME.encode() + b", vhost: '/',"
    b" user: 'gw-x'), channel 3:\n" + AT + b" [error] <0.2449.0> operation basic.publish caused a channel"
    b" exception precondition_failed: message size 4300000 is larger than configured max size 4194304\n"
)


def takeover(client_id: bytes) -> bytes:
    return (
        AT + b' [warning] <0.2341.0> MQTT disconnecting client "' + NAME.encode() + b'" with duplicate id \''
        + client_id + b"'\n"
    )  # fmt: skip


def test_a_channel_error_names_its_connection():
    assert channel_error_on(CHANNEL_ERROR) == NAME
    assert taken_over(CHANNEL_ERROR) is None


def test_a_takeover_names_the_client_id():
    assert taken_over(takeover(b"gw-x:1")) == "gw-x:1"
    rabbitmq_4 = takeover(b"gw-x:1").replace(b'"' + NAME.encode() + b'"', b'<<"' + NAME.encode() + b'">>')
    assert b"<<" in rabbitmq_4
    assert taken_over(rabbitmq_4) == "gw-x:1"
    assert taken_over(takeover("gw-x:\xff".encode("latin-1"))) == "gw-x:\ufffd"


@pytest.mark.parametrize("separator", [b"", b" ", b"\n", b"\r\n"])
def test_a_client_id_cannot_pass_for_a_channel_error(separator):
    assert channel_error_on(takeover(b"gw-x:" + separator + CHANNEL_ERROR)) is None


@pytest.mark.parametrize("entry", [b"", b"\xff", AT + b" [warning] <0.1.0> HTTP listener registry\n"])
def test_other_entries_say_nothing(entry):
    assert channel_error_on(entry) is None
    assert taken_over(entry) is None


@pytest.mark.parametrize("client_id", ["gw-01", "gw-01:2", "gw-01_", "gw-01/a", "gw-01.gw-02", "gw-01\xe9"])
def test_client_ids_of_a_gateway(client_id):
    assert topology.is_client_id_of("gw-01", client_id)


@pytest.mark.parametrize("client_id", ["", "gw-0", "gw-010", "gw-01-2", "gw-02", "GW-01", ":gw-01", "-gw-01"])
def test_client_ids_of_no_gateway_or_another(client_id):
    assert not topology.is_client_id_of("gw-01", client_id)
