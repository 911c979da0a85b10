"""The rules of identity: passwords, lockout, codes, tokens, signing keys, and what the master key gives."""

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from esp_auth.domain import secrets, tokens, totp
from esp_auth.domain.keys import SigningKey, published, retired, signer
from esp_auth.domain.lockout import Attempts, Rule, after_failure, wait_s
from esp_auth.domain.passwords import Cost, Passwords, check_password, weaknesses
from esp_auth.domain.users import canonical_username, duties, is_username
from esp_auth.settings import AuthSettings
from esp_common.errors import InvalidInput, Unauthenticated
from esp_common.tokens import key_id_in, read_jwks, read_token
from hypothesis import assume, given
from hypothesis import strategies as st

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
RULE = Rule(free=5, first_s=30, longest_s=900, forget_s=3600)
MASTER = bytes(range(32))
AUDIT_CHAIN_OF_MASTER = "de8c6d6b64620cc21c3893c05ad937259d591042d564492a1a6a255526e1d2df"
passwords = Passwords(Cost(64, 1, 1))
seconds = st.floats(0, 10_000)


# --- passwords --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        "seven wells under the rain",
        "xk4-uuR9-pump",
        "пароль из двенадцати букв",
        "correct horse battery staple",
        "a" * 11 + "bcdefghij" * 13,
    ],
    ids=["phrase", "random", "cyrillic", "spaces", "longest"],
)
def test_a_good_password_has_no_weakness(password: str) -> None:
    assert weaknesses(password, "maria") == []


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("elevenchars", "12 to 128"),
        ("x" * 60 + "y" * 69, "12 to 128"),
        ("my name is Maria!", "username"),
        ("MARIAMARIAMARIA", "username"),
        ("password1234", "many people"),
        ("Password2026!", "many people"),
        ("passwordpassword", "many people"),
        ("qwertyuiop123", "many people"),
        ("aaaaaaaaaaaaaaaa", "many people"),
        ("abcabcabcabcabc", "many people"),
        ("1234567890123", "many people"),
        ("abcdefghijklmn", "many people"),
        ("", "12 to 128"),
    ],
)
def test_a_weak_password_is_refused_with_its_reason(password: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refusal:
        check_password(password, "maria")
    assert not password or password not in str(refusal.value)


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_can_be_judged(password: str, username: str) -> None:
    reasons = weaknesses(password, username)
    assert bool(reasons) >= (not 12 <= len(password) <= 128)


@given(st.text(max_size=40, alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_password_matches_its_hash(password: str) -> None:
    assert passwords.matches(passwords.hash(password), password)


def test_what_looks_the_same_is_the_same_password() -> None:
    assert passwords.matches(passwords.hash("re\u0301sume\u0301 of a pump"), "r\u00e9sum\u00e9 of a pump")


@pytest.mark.parametrize("stored", ["", "x", "$argon2id$v=19$m=64,t=1,p=1$c2FsdA$", "$2b$12$abc"])
def test_a_damaged_hash_matches_nothing(stored: str) -> None:
    assert not passwords.matches(stored, "whatever it is")


def test_a_hash_of_another_cost_is_outdated_and_still_matches() -> None:
    old = Passwords(Cost(32, 2, 1)).hash("seven wells")
    assert passwords.outdated(old)
    assert passwords.matches(old, "seven wells")
    assert not passwords.outdated(passwords.hash("seven wells"))


# --- lockout ----------------------------------------------------------------------------------------------


@given(st.integers(0, 4))
def test_the_first_failures_cost_nothing(failures: int) -> None:
    assert wait_s(Attempts(failures, NOW), RULE, NOW) == 0


@given(st.integers(5, 10_000), seconds)
def test_the_wait_is_bounded_and_runs_out(failures: int, later: float) -> None:
    attempts = Attempts(failures, NOW)
    wait = wait_s(attempts, RULE, NOW + timedelta(seconds=later))
    assert 0 <= wait <= RULE.longest_s
    assert wait_s(attempts, RULE, NOW + timedelta(seconds=RULE.longest_s)) == 0


@given(st.integers(5, 1000))
def test_more_failures_never_wait_less(failures: int) -> None:
    fewer, more = Attempts(failures, NOW), Attempts(failures + 1, NOW)
    assert wait_s(fewer, RULE, NOW) <= wait_s(more, RULE, NOW)


def test_the_wait_doubles() -> None:
    waits = [wait_s(Attempts(n, NOW), RULE, NOW) for n in range(4, 12)]
    assert waits == [0, 30, 60, 120, 240, 480, 900, 900]


@given(st.lists(st.floats(0, 3600), min_size=1, max_size=30))
def test_failures_are_counted_until_they_are_forgotten(pauses: list[float]) -> None:
    attempts, now = None, NOW
    for pause in pauses:
        now += timedelta(seconds=pause)
        attempts = after_failure(attempts, RULE, now)
    assert attempts == Attempts(len(pauses), now)
    assert after_failure(attempts, RULE, now + timedelta(seconds=RULE.forget_s + 1)).failures == 1


# --- the second factor ------------------------------------------------------------------------------------

SECRET = base64.b32encode(b"12345678901234567890").decode()


@pytest.mark.parametrize(
    ("at_s", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_codes_are_those_of_rfc_6238(at_s: int, code: str) -> None:
    assert totp.accepted_step(SECRET, code, at_s, None) == at_s // 30


@given(st.integers(2, 2**33), st.integers(-3, 3))
def test_a_code_is_good_for_a_step_either_way(now_s: int, off: int) -> None:
    step = now_s // 30 + off
    assume(step >= 0)
    accepted = totp.accepted_step(SECRET, totp.code_at(SECRET, step), now_s, None)
    assert (accepted is not None) or abs(off) > 1


@given(st.integers(60, 2**33), st.integers(-1, 1))
def test_a_code_is_good_once(now_s: int, off: int) -> None:
    step = now_s // 30 + off
    code = totp.code_at(SECRET, step)
    last = totp.accepted_step(SECRET, code, now_s, None)
    assert last is not None
    again = totp.accepted_step(SECRET, code, now_s, last)
    assert again is None or again > last


@pytest.mark.parametrize("code", ["", "0", "28708", "2870822", "abcdef", "２８７０８２"])
def test_no_other_text_is_a_code(code: str) -> None:
    assert totp.accepted_step(SECRET, code, 59, None) is None


# --- tokens -----------------------------------------------------------------------------------------------

HOLDER = tokens.Holder(UUID(int=1), "maria", ["viewer", "engineer"], UUID(int=2))


def _signed(now: datetime, **changes: object) -> tuple[str, Ed25519PublicKey]:
    key = Ed25519PrivateKey.generate()
    stated = {**tokens.claims(HOLDER, now.timestamp(), 3600), **changes}
    return tokens.sign(key, "k1", stated), key.public_key()


def test_what_is_signed_here_verifies_there() -> None:
    token, key = _signed(datetime.now(UTC))
    read = read_token(token, key)
    assert read.principal.id == str(HOLDER.user_id)
    assert read.principal.session_id == str(HOLDER.session_id)
    assert read.principal.name == "maria"
    assert "assets:write" in read.principal.scopes
    assert key_id_in(token) == "k1"


def test_duties_leave_no_scopes() -> None:
    holder = tokens.Holder(UUID(int=1), "maria", ["admin"], UUID(int=2), {"password"})
    key = Ed25519PrivateKey.generate()
    token = tokens.sign(key, "k1", tokens.claims(holder, datetime.now(UTC).timestamp(), 60))
    principal = read_token(token, key.public_key()).principal
    assert principal.must == {"password"}
    assert not principal.scopes


def test_a_token_says_all_that_rfc_9068_wants_and_no_more() -> None:
    token, _ = _signed(NOW)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "k1", "typ": "at+jwt"}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims.keys() == {"iss", "aud", "sub", "name", "roles", "sid", "jti", "iat", "nbf", "exp"}
    assert claims["iat"] == NOW.timestamp()


def test_no_two_tokens_are_the_same() -> None:
    assert tokens.claims(HOLDER, 1.0, 1)["jti"] != tokens.claims(HOLDER, 1.0, 1)["jti"]


def test_another_key_does_not_verify() -> None:
    token, _ = _signed(datetime.now(UTC))
    with pytest.raises(Unauthenticated):
        read_token(token, Ed25519PrivateKey.generate().public_key())


def test_a_public_key_is_read_as_it_is_published() -> None:
    kid, public_key, _ = tokens.new_key()
    document = tokens.jwk(kid, public_key)
    assert "d" not in document
    assert read_jwks(orjson.dumps({"keys": [document]}))[kid].public_bytes_raw() == public_key


# --- signing keys -----------------------------------------------------------------------------------------


def _keys(*signs_from: int) -> list[SigningKey]:
    return [
        SigningKey(str(number), b"", b"", NOW, NOW + timedelta(seconds=at))
        for number, at in enumerate(sorted(set(signs_from)))
    ]


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=10), seconds, st.floats(1, 5000))
def test_whoever_signed_a_living_token_is_published(times: list[int], at: float, lifetime: float) -> None:
    keys = _keys(0, *times)
    now = NOW + timedelta(seconds=at)
    signed_before = signer(keys, max(NOW, now - timedelta(seconds=lifetime)))
    kids = {key.kid for key in published(keys, now, lifetime)}
    assert signed_before is not None
    assert signed_before.kid in kids
    assert {key.kid for key in keys if key.signs_from > now} <= kids
    assert kids.isdisjoint(key.kid for key in retired(keys, now, lifetime))


def test_a_new_key_is_published_before_it_signs() -> None:
    old, new = _keys(0, 60)
    now = NOW + timedelta(seconds=30)
    assert signer([new, old], now) == old
    assert published([new, old], now, 3600) == [old, new]
    assert signer([new, old], NOW + timedelta(seconds=60)) == new


def test_without_a_key_nobody_signs() -> None:
    assert signer([], NOW) is None
    assert published([], NOW, 1) == []


# --- the master key ---------------------------------------------------------------------------------------


def test_each_purpose_has_a_key_of_its_own() -> None:
    labels = [
        secrets.API_KEY_PEPPER,
        secrets.SIGNING_KEYS,
        secrets.TOTP,
        secrets.AUDIT_CHAIN,
        secrets.REFRESH,
        secrets.LOGIN_ATTEMPTS,
    ]
    derived = {secrets.derive(MASTER, label) for label in labels}
    assert len(derived) == len(labels)
    assert {len(key) for key in derived} == {32}
    assert MASTER not in derived
    assert secrets.derive(MASTER, secrets.TOTP) in derived


def test_derivation_is_the_same_for_ever() -> None:
    assert secrets.derive(MASTER, secrets.AUDIT_CHAIN).hex() == AUDIT_CHAIN_OF_MASTER


@given(st.binary(max_size=100), st.text(max_size=20, alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_for_its_owner_alone(secret: bytes, owner: str) -> None:
    key = secrets.derive(MASTER, secrets.TOTP)
    sealed = secrets.seal(key, secret, owner)
    assert secrets.unseal(key, sealed, owner) == secret
    assert sealed != secrets.seal(key, secret, owner)
    for other_key, other, other_owner in (
        (secrets.derive(MASTER, secrets.REFRESH), sealed, owner),
        (key, sealed, owner + "x"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), owner),
        (key, b"", owner),
    ):
        with pytest.raises(secrets.WrongMasterKey):
            secrets.unseal(other_key, other, other_owner)


@pytest.mark.parametrize("text", ["", "x", "AAAA", base64.b64encode(bytes(31)).decode(), "é"])
def test_a_master_key_is_32_bytes_in_base64(text: str) -> None:
    with pytest.raises(InvalidInput, match="32 bytes"):
        secrets.decode_master_key(text)


# --- users and settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["maria", "M.Rossi", "a1", "maria@example.com", "x" * 64])
def test_a_username_is_kept_in_lower_case(name: str) -> None:
    assert canonical_username(name) == name.lower()
    assert is_username(name)


@pytest.mark.parametrize("name", ["", "a", "-a", "a b", "maria\n", "ünal", "x" * 65, "a/b", "nul\0"])
def test_no_other_text_is_a_username(name: str) -> None:
    assert not is_username(name)
    with pytest.raises(InvalidInput):
        canonical_username(name)


@pytest.mark.parametrize(
    ("roles", "must_change", "has_totp", "required", "expected"),
    [
        (["admin"], False, False, False, set()),
        (["admin"], False, False, True, {"totp"}),
        (["admin"], False, True, True, set()),
        (["viewer"], False, False, True, set()),
        (["admin"], True, False, True, {"password", "totp"}),
    ],
)
def test_duties(
    roles: list[str], must_change: bool, has_totp: bool, required: bool, expected: set[str]
) -> None:
    found = duties(
        roles, must_change_password=must_change, has_totp=has_totp, totp_required_for_admin=required
    )
    assert found == expected


@pytest.mark.parametrize(
    "wrong",
    [{"master_key": "hunter2-hunter2"}, {"lockout_forget_s": 1.0}, {"argon2_passes": 0}],
    ids=["master", "lockout", "cost"],
)
def test_wrong_settings_are_named_and_no_secret_is_shown(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        AuthSettings.load(**wrong)
    assert f"ESP_AUTH_{next(iter(wrong)).upper()}" in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


def test_settings_do_not_show_their_secrets() -> None:
    key = base64.b64encode(MASTER).decode()
    settings = AuthSettings(master_key=key, broker_secret="asked-by-the-broker")
    assert key not in repr(settings)
    assert "asked-by" not in repr(settings)
