"""Keys and permissions: what a key looks like, and what a role may do."""

import string

import pytest
from esp_common.auth import (
    PERMISSIONS,
    ROLES,
    Principal,
    decode_answer,
    encode_answer,
    key_id_of,
    new_api_key,
    require,
    scopes_of,
)
from hypothesis import given
from hypothesis import strategies as st

key_ids = st.text(string.ascii_lowercase + string.digits + "-", min_size=3, max_size=64)


@given(key_id=key_ids)
def test_a_new_key_carries_its_id_and_a_secret_of_its_own(key_id: str) -> None:
    key = new_api_key(key_id)
    assert key_id_of(key) == key_id
    assert new_api_key(key_id) != key


@given(key_id=key_ids, data=st.data())
def test_a_key_with_another_character_anywhere_is_malformed(key_id: str, data: st.DataObject) -> None:
    key = new_api_key(key_id)
    at = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.characters().filter(lambda character: character != key[at]))
    assert key_id_of(key[:at] + other + key[at + 1 :]) is None


@given(text=st.text(max_size=200))
def test_any_text_is_no_key(text: str) -> None:
    assert key_id_of(text) is None
    assert key_id_of(f"esp_live_{text}") is None


def test_a_key_in_a_longer_text_is_no_key() -> None:
    key = new_api_key("gw-01")
    assert [key_id_of(text) for text in (key + "\n", " " + key, key * 2, key[:-1])] == [None] * 4


@pytest.mark.parametrize("key_id", ["", "gw", "GW-01", "gw_01", "gw 01", "g" * 65, "gw-01\n"])
def test_a_key_of_an_odd_id_is_not_made(key_id: str) -> None:
    with pytest.raises(ValueError, match="not an id of a key"):
        new_api_key(key_id)


def test_the_table_names_no_role_that_nobody_can_have() -> None:
    assert set().union(*PERMISSIONS.values()) == set(ROLES)


@given(roles=st.sets(st.sampled_from(ROLES)))
def test_a_human_may_what_one_of_their_roles_may(roles: set[str]) -> None:
    assert scopes_of(roles) == {permission for permission in PERMISSIONS if PERMISSIONS[permission] & roles}


def test_an_auditor_may_look_at_the_audit_trail_and_at_nothing_else() -> None:
    assert scopes_of({"auditor"}) == {"audit:read", "audit:verify"}


def test_a_role_that_does_not_exist_may_nothing() -> None:
    assert scopes_of({"root"}) == frozenset()


def test_a_permission_outside_the_table_cannot_be_required() -> None:
    with pytest.raises(ValueError, match="pumps:explode"):
        require("pumps:explode")
    assert require("assets:read").permission == "assets:read"


@given(
    gateway_id=st.none() | st.text(min_size=1), name=st.none() | st.text(), scopes=st.frozensets(st.text())
)
def test_an_answer_about_a_key_comes_back_as_it_was(
    gateway_id: str | None, name: str | None, scopes: frozenset[str]
) -> None:
    principal = Principal("key-1", "key", scopes, gateway_id, name=name)
    assert decode_answer(encode_answer(principal)) == principal
    assert decode_answer(encode_answer(None)) is None
