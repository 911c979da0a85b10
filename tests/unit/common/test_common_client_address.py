"""Whose address a request has, behind trusted proxies and others."""

from ipaddress import ip_network
from typing import Any

import pytest
from esp_common.client_address import LOOPBACK, TrustedProxies
from hypothesis import given
from hypothesis import strategies as st

PROXIES = TrustedProxies([*LOOPBACK, ip_network("10.0.0.0/8"), ip_network("2001:db8:f::/48")])
PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"


def address(*headers: tuple[str, str], peer: str | None = PROXY, proxies: TrustedProxies = PROXIES) -> Any:
    """Return the client's address of a request with `headers`."""
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return proxies.client_address({"headers": raw, "client": None if peer is None else (peer, 1)})


def forwarded_for(value: str, peer: str = PROXY) -> Any:
    return address(("X-Forwarded-For", value), peer=peer)


def forwarded(value: str, peer: str = PROXY) -> Any:
    return address(("Forwarded", value), peer=peer)


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (CLIENT, CLIENT),
        (f"{CLIENT}, 10.1.2.3", CLIENT),
        (f"{CLIENT},10.1.2.3 , 10.9.9.9", CLIENT),
        (f"6.6.6.6, {CLIENT}, 10.1.2.3", CLIENT),
        (f"127.0.0.1, 10.0.0.7, {CLIENT}", CLIENT),
        ("10.1.2.3, 10.9.9.9", "10.1.2.3"),
        (f"{CLIENT}:5123", CLIENT),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1, 2001:db8:f::2", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT}, ::ffff:10.1.1.1", CLIENT),
        (f"{CLIENT},", CLIENT),
    ],
)
def test_the_rightmost_address_of_no_proxy_is_the_client_s(value: str, client: str) -> None:
    assert forwarded_for(value) == client


@pytest.mark.parametrize(
    "value",
    [
        *("", ",", "unknown", "_hidden", "nonsense", "1.2.3", "1.2.3.4.5", "300.1.1.1", "[1.2.3.4]", "[::1"),
        *("::1]", "fe80::1%<script>", "[fe80::1%25eth0]", "1.2.3.4:port", "é", "[]", ":80"),
        f"{CLIENT}, evil<script>",
    ],
)
def test_an_entry_without_an_address_leaves_the_proxy_that_wrote_it(value: str) -> None:
    assert forwarded_for(value) == PROXY


def test_an_entry_without_an_address_hides_what_is_left_of_it() -> None:
    assert forwarded_for(f"{CLIENT}, unknown, 10.5.5.5") == "10.5.5.5"
    assert forwarded(f"for={CLIENT}, for=unknown, for=10.5.5.5") == "10.5.5.5"


@pytest.mark.parametrize("peer", ["198.51.100.1", "2001:db8::7", "11.0.0.1"])
def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_says(peer: str) -> None:
    assert forwarded_for(CLIENT, peer) == peer
    assert forwarded(f"for={CLIENT}", peer) == peer


@pytest.mark.parametrize(
    ("peer", "seen"), [("::1", CLIENT), ("::ffff:10.0.0.5", CLIENT), ("fe80::1%eth0", "fe80::1")]
)
def test_the_peer_is_judged_in_every_notation(peer: str, seen: str) -> None:
    assert forwarded_for(CLIENT, peer) == seen


def test_several_lines_of_the_header_are_one_list() -> None:
    assert address(("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", f"{CLIENT}, 10.1.1.1")) == CLIENT
    assert address(("Forwarded", "for=6.6.6.6"), ("Forwarded", f"for={CLIENT}")) == CLIENT


def test_without_trusted_proxies_or_an_address_no_header_counts() -> None:
    header = ("X-Forwarded-For", CLIENT)
    assert address(header, peer="127.0.0.1", proxies=TrustedProxies(())) == "127.0.0.1"
    assert address(header, peer=None) is None
    assert address(peer=PROXY) == PROXY


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (f"for={CLIENT}", CLIENT),
        (f"For={CLIENT};proto=https;by=10.0.0.1", CLIENT),
        (f"proto=https; by=10.0.0.1 ; FOR={CLIENT};", CLIENT),
        (f"for={CLIENT}, for=10.1.2.3", CLIENT),
        (f"for=6.6.6.6, for={CLIENT},for=10.1.2.3", CLIENT),
        (f'for="{CLIENT}:4711"', CLIENT),
        (f"for={CLIENT}:4711", CLIENT),
        (f'for="{CLIENT}:_gazonk"', CLIENT),
        ('for="[2001:db8::1]"', "2001:db8::1"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:db8::1]", for="[2001:db8:f::1]:80"', "2001:db8::1"),
        (r'for="203.0.113\.9"', CLIENT),
        (f'for="6.6.6.6, for=7.7.7.7", for={CLIENT}', CLIENT),
        (f'for="6.6.6.6, for={CLIENT}', CLIENT),
        ('for="6.6.6.6, for="[2001:db8::1]"', "2001:db8::1"),
        ('for="6.6.6.6\\, for="[2001:db8::1]";proto=https', "2001:db8::1"),
        (f"complete nonsense = 6.6.6.6, for={CLIENT}", CLIENT),
    ],
)
def test_forwarded_is_read_like_it(value: str, client: str) -> None:
    assert forwarded(value) == client


@pytest.mark.parametrize(
    "value",
    [
        *("", "for=unknown", "for=_hidden", 'for="_SEVKISEK"', "proto=https", f"for={CLIENT};for=6.6.6.6"),
        *(f'for="{CLIENT}', f"for {CLIENT}", f"for={CLIENT} 6.6.6.6", "for=", 'for=""', f'x="for={CLIENT}"'),
    ],
)
def test_an_element_without_an_address_leaves_the_proxy_that_wrote_it(value: str) -> None:
    assert forwarded(value) == PROXY


def test_x_forwarded_for_counts_where_both_are_sent() -> None:
    assert address(("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", CLIENT)) == CLIENT


@given(st.text(st.characters(codec="latin-1"), max_size=60))
def test_no_text_of_a_client_changes_what_a_proxy_appended(text: str) -> None:
    assert forwarded_for(f"{text}, {CLIENT}") == CLIENT
    assert forwarded(f"{text}, for={CLIENT};proto=https") == CLIENT
    assert forwarded(f'{text}, for="[2001:db8::1]:80"') == "2001:db8::1"


@pytest.mark.parametrize("unit", ['for="', ",for=10.0.0.1", ',a="', ";a=b", "10.0.0.1,", '\\"'])
def test_of_a_long_header_the_end_counts(unit: str) -> None:
    header = (unit * 64_000)[:64_000]
    assert forwarded(f"{header}, for={CLIENT}") == CLIENT
    assert forwarded_for(f"{header}, {CLIENT}") == CLIENT


@pytest.mark.parametrize(
    "text",
    ["a=b" + ";  " * 330 + "!", " ;" * 500, 'for="' + '\\"' * 480, 'for="' + "a;b," * 250, "=," * 500],
    ids=["spaces between semicolons", "empty pairs", "escaped quotes", "open quote", "no names"],
)
def test_hostile_header_is_read_in_linear_time(text: str) -> None:
    """Exponential backtracking would run until the test's time limit."""
    assert forwarded(f"{text}, for={CLIENT}") == CLIENT
    assert forwarded(text) == PROXY
