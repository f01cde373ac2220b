"""What an app registers with the provider, on the memory storage."""

from __future__ import annotations

import pytest

from office import Office, Play, field_codes, refusal
from savannah.domain.access import Caller
from savannah.domain.clients import AuthMethod, ClientMetadata
from savannah.domain.errors import InsufficientScope, Invalid, NotFound

KEY = {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}


def test_an_operator_decides_how_an_app_is_treated(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        changes = {
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": [KEY], "more": 1},
            "post_logout_redirect_uris": ["https://app.example/bye"],
            "backchannel_logout_uri": "http://127.0.0.1:9/out",
            "require_pkce": False,
            "skip_consent": True,
            "resource_server": True,
        }
        configure = office.apps.configure_provider
        after = await configure(client.client_id, changes, by=None)
        assert after.metadata == ClientMetadata(
            token_endpoint_auth_method=AuthMethod.PRIVATE_KEY_JWT,
            jwks={"keys": [KEY]},
            post_logout_redirect_uris=("https://app.example/bye",),
            backchannel_logout_uri="http://127.0.0.1:9/out",
            require_pkce=False,
            skip_consent=True,
            resource_server=True,
        )
        boss = await office.boss()
        assert await configure(client.client_id, {"require_pkce": False}, by=boss) == after
        usual = {"token_endpoint_auth_method": None, "jwks": None, "backchannel_logout_uri": None}
        after = await configure(client.client_id, usual, by=boss)
        assert after.metadata.jwks is None
        events = await office.events("client", client.id)
        assert [(event.action, event.actor) for event in events[1:]] == [
            ("client.configured", "operator"),
            ("client.configured", boss.principal),
        ]

    play(scene)


@pytest.mark.parametrize(
    ("changes", "field", "code"),
    [
        ({"token_endpoint_auth_method": "none"}, "token_endpoint_auth_method", "invalid_choice"),
        ({"token_endpoint_auth_method": "tls"}, "token_endpoint_auth_method", "invalid_choice"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "jwks", "required"),
        ({"jwks": {}}, "jwks", "wrong_type"),
        ({"jwks": "x"}, "jwks", "wrong_type"),
        ({"jwks": {"keys": [1]}}, "jwks", "wrong_type"),
        ({"jwks": {"keys": [KEY] * 11}}, "jwks", "too_long"),
        ({"jwks": {"keys": [{**KEY, "d": "AA"}]}}, "jwks", "invalid_format"),
        ({"jwks": {"keys": [{"kty": "oct", "k": "AA"}]}}, "jwks", "invalid_format"),
        ({"post_logout_redirect_uris": "x"}, "post_logout_redirect_uris", "wrong_type"),
        (
            {"post_logout_redirect_uris": ["http://evil.example/"]},
            "post_logout_redirect_uris",
            "invalid_redirect_uri",
        ),
        (
            {"backchannel_logout_uri": "com.example.app:/x"},
            "backchannel_logout_uri",
            "invalid_redirect_uri",
        ),
        ({"require_pkce": "yes"}, "require_pkce", "wrong_type"),
        ({"colour": "red"}, "colour", "unknown_field"),
    ],
)
def test_a_broken_field_is_named(
    play: Play, changes: dict[str, object], field: str, code: str
) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        refused = await refusal(office.apps.configure_provider(client.client_id, changes, by=None))
        assert isinstance(refused, Invalid)
        assert field_codes(refused) == {(field, code)}

    play(scene)


def test_nobody_else_configures_and_nothing_that_is_not_there(play: Play) -> None:
    async def scene(office: Office) -> None:
        client, _ = await office.app()
        configure = office.apps.configure_provider
        staff = Caller.staff("user:x")
        assert isinstance(
            await refusal(configure(client.client_id, {}, by=staff)), InsufficientScope
        )
        for missing in ("nobody", "\x00"):
            assert isinstance(await refusal(configure(missing, {}, by=None)), NotFound)

    play(scene)
