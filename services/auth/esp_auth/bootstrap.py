"""Create the first users and keys of a new platform from a private file."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from esp_common.auth import PERMISSIONS
from esp_common.errors import InvalidInput, NotFound
from esp_common.secrets import read_secret
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esp_auth.api_keys import ApiKeys, NewKey
from esp_auth.changes import Actor
from esp_auth.granting import GATEWAY_SCOPE
from esp_auth.signing import Signing
from esp_auth.users import ADMIN, Users

BOOTSTRAP_NAME: Final = "bootstrap"


class FirstAdmin(BaseModel):
    """The first administrator, who has to change this password."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    username: str
    password: str = Field(repr=False)


class FirstOnes(BaseModel):
    """Contents of the file; every part is optional."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    api_key: str | None = Field(None, repr=False)
    admin: FirstAdmin | None = None
    gateways: dict[str, str] = Field(default_factory=dict, repr=False)


@dataclass(slots=True)
class Done:
    """Objects that were created and that existed, by name, without secrets."""

    created: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)

    def add(self, what: str, *, created: bool) -> None:
        """Add one of them."""
        (self.created if created else self.present).append(what)


def read_first_ones(path: Path) -> FirstOnes:
    """Return the contents of the file; raise InvalidInput, which quotes nothing of it."""
    try:
        return FirstOnes.model_validate_json(read_secret(path))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"{path}: {wrong}", fix="see `esp-auth bootstrap --help`") from None


async def missing_of(first: FirstOnes, users: Users, api_keys: ApiKeys, signing: Signing) -> Done:
    """Return what `bootstrap` would create, and what exists."""
    done = Done()
    done.add("signing key", created=not await signing.exists())
    if first.admin is not None:
        done.add(f"user {first.admin.username}", created=not await _user_exists(users, first.admin.username))
    if first.api_key is not None:
        done.add("API key bootstrap", created=not await api_keys.exists(first.api_key))
    for gateway_id, key in first.gateways.items():
        done.add(f"API key of gateway {gateway_id}", created=not await api_keys.exists(key))
    return done


async def bootstrap(
    first: FirstOnes, users: Users, api_keys: ApiKeys, signing: Signing, actor: Actor
) -> Done:
    """Create the missing ones among the first signing key, administrator and keys."""
    done = Done()
    await signing.ensure()
    if first.admin is not None:
        created = await _create_admin(users, first.admin, actor)
        done.add(f"user {first.admin.username}", created=created)
    if first.api_key is not None:
        wanted = NewKey(BOOTSTRAP_NAME, PERMISSIONS)
        done.add("API key bootstrap", created=await api_keys.adopt(first.api_key, wanted, actor))
    for gateway_id, key in first.gateways.items():
        wanted = NewKey(f"gateway {gateway_id}", [GATEWAY_SCOPE], gateway_id)
        done.add(f"API key of gateway {gateway_id}", created=await api_keys.adopt(key, wanted, actor))
    return done


async def _create_admin(users: Users, admin: FirstAdmin, actor: Actor) -> bool:
    if await _user_exists(users, admin.username):
        return False
    await users.create(admin.username, admin.password, [ADMIN], actor)
    return True


async def _user_exists(users: Users, username: str) -> bool:
    with suppress(NotFound):
        await users.by_name(username)
        return True
    return False
