"""rabbitmq.conf for the broker's major version."""

import pytest
from esp_platform.broker import Listeners, configuration

LISTENERS = Listeners("127.0.0.1", 1, 2, 3, 4)


def settings(**options: int) -> dict[str, str]:
    text = configuration(LISTENERS, "/definitions.json", None, None, **options)
    return dict(line.split(" = ", 1) for line in text.splitlines())


@pytest.mark.parametrize("options", [{}, {"major_version": 4}], ids=["default", "4"])
def test_rabbitmq_4_limits_mqtt_packets_to_the_largest_message(options):
    found = settings(**options)
    assert found["mqtt.max_packet_size_authenticated"] == found["max_message_size"]


def test_rabbitmq_3_gets_no_setting_that_it_does_not_know():
    assert "mqtt.max_packet_size_authenticated" not in settings(major_version=3)
