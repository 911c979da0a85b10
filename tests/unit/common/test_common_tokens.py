"""Tokens: only what auth signed, for us, for now, and in the one form that is allowed, is read."""

import base64
import hashlib
import hmac
import time
from contextlib import suppress
from typing import Any

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from esp_common.auth import scopes_of
from esp_common.errors import Unauthenticated
from esp_common.tokens import REQUIRED, key_id_in, read_jwks, read_token
from hypothesis import assume, given
from hypothesis import strategies as st

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key()
HEADER = {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}


def claims(**other: Any) -> dict[str, Any]:
    """Return what a login puts into a token, with other values; None leaves a claim out."""
    now = time.time()
    default = {
        "iss": "esp-auth",
        "aud": "esp",
        "sub": "u-1",
        "name": "ann",
        "roles": ["operator"],
        "sid": "s-1",
        "jti": "j-1",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
    }
    return {name: value for name, value in {**default, **other}.items() if value is not None}


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def signed(header: Any, payload: bytes, key: Any = KEY) -> str:
    """Return a token of any header and payload with a good signature."""
    text = encoded(orjson.dumps(header)) + b"." + encoded(payload)
    return (text + b"." + encoded(key.sign(text))).decode()


def token(**other: Any) -> str:
    return signed(HEADER, orjson.dumps(claims(**other)))


GOOD = token(iat=1_700_000_000, nbf=1_700_000_000, exp=4_000_000_000)


def test_a_good_token_says_who_calls() -> None:
    read = read_token(token(), PUBLIC)
    assert (read.principal.id, read.principal.kind, read.principal.name) == ("u-1", "user", "ann")
    assert (read.principal.session_id, read.session_id) == ("s-1", "s-1")
    assert read.principal.scopes == scopes_of({"operator"})
    assert read.principal.must == frozenset()
    assert key_id_in(token()) == "k1"


def test_who_must_do_something_first_may_nothing() -> None:
    read = read_token(token(roles=["admin"], must=["password"]), PUBLIC)
    assert (read.principal.scopes, read.principal.must) == (frozenset(), {"password"})


def test_a_clock_that_is_a_little_ahead_does_no_harm() -> None:
    ahead = time.time() + 20
    assert read_token(token(iat=ahead, nbf=ahead), PUBLIC).issued_at == ahead


@pytest.mark.parametrize("name", REQUIRED)
def test_a_token_without_a_claim_is_refused(name: str) -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        read_token(token(**{name: None}), PUBLIC)


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "someone"},
        {"iss": ["esp-auth"]},
        {"aud": "other"},
        {"aud": ["esp", "other"]},
        {"nbf": 9e9},
        {"iat": 9e9},
        {"iat": "now"},
        {"exp": "9999999999"},
        {"sub": ""},
        {"sub": 1},
        {"sid": 7},
        {"name": ["ann"]},
        {"roles": "admin"},
        {"roles": [1]},
        {"must": "password"},
    ],
    ids=str,
)
def test_a_token_with_a_wrong_claim_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated, match="not valid"):
        read_token(token(**wrong), PUBLIC)


def test_an_expired_token_is_refused_without_leeway() -> None:
    with pytest.raises(Unauthenticated, match="expired"):
        read_token(token(exp=time.time() - 60), PUBLIC)
    assert read_token(token(exp=time.time() - 1), PUBLIC).expires_at < time.time(), "the verifier sees to it"


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"1e999", b"-1"], ids=repr)
def test_a_time_that_is_none_is_refused(literal: bytes) -> None:
    payload = orjson.dumps(claims(exp=1)).replace(b'"exp":1', b'"exp":' + literal)
    with pytest.raises(Unauthenticated):
        read_token(signed(HEADER, payload), PUBLIC)


def public_forms() -> list[bytes]:
    """Return what a confused verifier might take for a shared secret."""
    raw, pem = serialization.Encoding.Raw, serialization.Encoding.PEM
    return [
        PUBLIC.public_bytes(raw, serialization.PublicFormat.Raw),
        PUBLIC.public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo),
        b"",
    ]


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("form", range(3))
def test_the_public_key_is_no_shared_secret(algorithm: str, form: int) -> None:
    text = encoded(orjson.dumps({**HEADER, "alg": algorithm})) + b"." + encoded(orjson.dumps(claims()))
    digest = getattr(hashlib, f"sha{algorithm[2:]}")
    seal = hmac.digest(public_forms()[form], text, digest)
    with pytest.raises(Unauthenticated):
        read_token((text + b"." + encoded(seal)).decode(), PUBLIC)


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", None, "eddsa", "Ed25519", "ES256", 1, ["EdDSA"]]
)
def test_no_other_algorithm_is_taken(algorithm: Any) -> None:
    header = {**HEADER, "alg": algorithm}
    unsigned = (encoded(orjson.dumps(header)) + b"." + encoded(orjson.dumps(claims())) + b".").decode()
    for attempt in (unsigned, signed(header, orjson.dumps(claims()))):
        with pytest.raises(Unauthenticated):
            read_token(attempt, PUBLIC)


@pytest.mark.parametrize("typ", ["JWT", "AT+JWT", "at+jwt ", "refresh", None, 1])
def test_a_token_of_another_type_is_refused(typ: Any) -> None:
    with pytest.raises(Unauthenticated):
        read_token(signed({**HEADER, "typ": typ}, orjson.dumps(claims())), PUBLIC)


def test_another_key_is_refused_whatever_its_kind() -> None:
    for key in (Ed25519PrivateKey.generate(), Ed448PrivateKey.generate()):
        with pytest.raises(Unauthenticated):
            read_token(signed(HEADER, orjson.dumps(claims()), key), PUBLIC)
    ecdsa = jwt.encode(claims(), generate_private_key(SECP256R1()), "ES256", HEADER | {"alg": "ES256"})
    with pytest.raises(Unauthenticated):
        read_token(ecdsa, PUBLIC)


@pytest.mark.parametrize("critical", [["exp"], ["b64"], [], "b64"], ids=str)
def test_an_extension_that_must_be_understood_is_not(critical: Any) -> None:
    with pytest.raises(Unauthenticated):
        read_token(signed({**HEADER, "crit": critical, "b64": False}, orjson.dumps(claims())), PUBLIC)


def same_signature_written_otherwise(changed: str) -> bool:
    """Return whether only bits differ that base64 leaves unused at the end."""
    with suppress(ValueError):
        first, second = (base64.urlsafe_b64decode(text[-86:] + "==") for text in (GOOD, changed))
        return changed[:-86] == GOOD[:-86] and first == second
    return False


@given(data=st.data())
def test_a_token_with_another_character_anywhere_is_refused(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(GOOD) - 1))
    other = data.draw(st.characters(codec="latin-1").filter(lambda character: character != GOOD[at]))
    changed = GOOD[:at] + other + GOOD[at + 1 :]
    assume(not same_signature_written_otherwise(changed))
    with pytest.raises(Unauthenticated):
        read_token(changed, PUBLIC)


@given(text=st.text(st.characters(codec="latin-1"), max_size=300))
def test_any_text_is_no_token(text: str) -> None:
    for attempt in (text, f"{text}.{text}.{text}", f"eyJhbGciOiJFZERTQSJ9.{text}.{text}"):
        with pytest.raises(Unauthenticated):
            read_token(attempt, PUBLIC)
        with pytest.raises(Unauthenticated):
            key_id_in(attempt)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(header=json_values, payload=json_values)
def test_any_json_that_auth_did_not_mean_is_refused(header: Any, payload: Any) -> None:
    for head in (header, HEADER):
        with pytest.raises(Unauthenticated):
            read_token(signed(head, orjson.dumps(payload)), PUBLIC)


@given(name=st.sampled_from(REQUIRED), value=json_values)
def test_a_claim_of_any_other_form_is_refused_or_read(name: str, value: Any) -> None:
    try:
        read = read_token(token(**{name: value}), PUBLIC)
    except Unauthenticated:
        return
    assert isinstance(read.principal.id, str)
    assert read.principal.scopes <= scopes_of({"operator"})


@pytest.mark.parametrize("deep", [b"[" * 5000, b'{"a":' * 1000], ids=["lists", "objects"])
def test_deep_nesting_is_refused(deep: bytes) -> None:
    text = (encoded(deep) + b"." + encoded(b"{}") + b"." + encoded(b"x")).decode()
    with pytest.raises(Unauthenticated):
        key_id_in(text)
    with pytest.raises(Unauthenticated):
        read_token(text, PUBLIC)


@pytest.mark.parametrize("kid", [None, "", 1, ["k1"]], ids=str)
def test_a_token_names_its_key(kid: Any) -> None:
    with pytest.raises(Unauthenticated):
        key_id_in(signed({**HEADER, "kid": kid}, b"{}"))


def test_a_token_of_any_length_is_not_looked_at() -> None:
    with pytest.raises(Unauthenticated):
        key_id_in(signed(HEADER, orjson.dumps(claims(name="x" * 10_000))))


def test_keys_of_other_kinds_are_passed_over() -> None:
    own = {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "x": encoded(PUBLIC.public_bytes_raw()).decode()}
    others = [
        {"kty": "RSA", "kid": "r"},
        {**own, "crv": "X25519", "kid": "x"},
        {**own, "use": "enc", "kid": "e"},
    ]
    assert list(read_jwks(orjson.dumps({"keys": [*others, own]}))) == ["k1"]
