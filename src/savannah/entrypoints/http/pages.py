"""The provider's pages for people: login, consent, logout and refusals, in English and Swahili.

Plain HTML that works without scripts; whatever comes from outside goes through `escape`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Final, Literal

from savannah.domain.text import DIRECTION_SIGNS

Language = Literal["en", "sw"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "sw")

_STYLE: Final = (
    "body{font:1.05rem/1.5 system-ui,sans-serif;margin:0;background:#f4f1ea;color:#1d1b16}"
    "main{max-width:26rem;margin:8vh auto;padding:2rem;background:#fff;border-radius:.75rem;"
    "border:1px solid #cfc8b8}h1{font-size:1.4rem;margin:0 0 1rem}"
    "label{display:block;margin:1rem 0 .25rem;font-weight:600}"
    "input:not([type=hidden]){width:100%;box-sizing:border-box;padding:.65rem;font:inherit;"
    "border:1px solid #6b6454;border-radius:.4rem}"
    "button{font:inherit;font-weight:600;margin:1.25rem .5rem 0 0;padding:.65rem 1.25rem;"
    "border-radius:.4rem;border:2px solid #14532d;background:#14532d;color:#fff;cursor:pointer}"
    "button.plain{background:#fff;color:#14532d}"
    ":focus-visible{outline:3px solid #b45309;outline-offset:2px}"
    "[role=alert]{border-left:4px solid #b91c1c;padding:.5rem .75rem;background:#fef2f2}"
    "ul{padding-left:1.25rem}.small{font-size:.9rem;color:#4a463c;overflow-wrap:anywhere}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "login": ("Log in", "Ingia"),
    "login_for": ("to continue to {app}", "ili kuendelea kwenye {app}"),
    "username": ("User name or e-mail address", "Jina la mtumiaji au barua pepe"),
    "password": ("Password", "Nenosiri"),
    "consent": ("{app} asks for access", "{app} inaomba ruhusa"),
    "consent_user": ("You are logged in as {user}.", "Umeingia kama {user}."),
    "consent_list": ("It would be allowed to:", "Itaruhusiwa:"),
    "consent_to": ("Afterwards you go on to {host}.", "Kisha utaendelea kwenye {host}."),
    "allow": ("Allow", "Ruhusu"),
    "deny": ("Refuse", "Kataa"),
    "logout": ("Log out", "Toka"),
    "logout_question": ("Do you want to log out?", "Je, unataka kutoka?"),
    "logged_out": ("You are logged out", "Umetoka"),
    "logged_out_more": ("You can close this page.", "Unaweza kufunga ukurasa huu."),
    "continue": ("Continue", "Endelea"),
    "continue_more": (
        "If nothing happens, use the button.",
        "Ikiwa hakuna kinachotokea, bonyeza kitufe.",
    ),
    "refused": ("This does not work", "Hili halifanyi kazi"),
    "refused_more": (
        "The app sent something that is not valid here. Try again from there, or tell its makers:",
        "Programu imetuma kitu kisichokubalika hapa. Jaribu tena, au waambie walioitengeneza:",
    ),
    "later": (
        "This does not work at the moment. Please try again later.",
        "Hili halifanyi kazi kwa sasa. Tafadhali jaribu tena baadaye.",
    ),
    "wrong": ("Wrong user name or password.", "Jina la mtumiaji au nenosiri si sahihi."),
    "locked": (
        "Too many failed attempts. Try again later.",
        "Umejaribu mara nyingi mno. Jaribu tena baadaye.",
    ),
    "disabled": ("This account is disabled.", "Akaunti hii imezimwa."),
    "again": ("Please send the form once more.", "Tafadhali tuma fomu tena."),
    "scope:openid": ("know who you are", "kujua wewe ni nani"),
    "scope:profile": ("see your name", "kuona jina lako"),
    "scope:email": ("see your e-mail address", "kuona barua pepe yako"),
    "scope:offline_access": (
        "go on while you are away",
        "kuendelea hata usipokuwepo",
    ),
    "scope:customers:read": ("see customers", "kuona wateja"),
    "scope:customers:write": ("add and change customers", "kuongeza na kubadilisha wateja"),
    "scope:customers:delete": ("archive customers", "kuhifadhi wateja kwenye kumbukumbu"),
    "scope:orders:read": ("see orders", "kuona maagizo"),
    "scope:orders:write": ("add and change orders", "kuongeza na kubadilisha maagizo"),
    "scope:orders:delete": ("delete orders", "kufuta maagizo"),
    "scope:orders:override": ("cancel shipped orders", "kughairi maagizo yaliyosafirishwa"),
    "scope:analytics:read": ("see figures", "kuona takwimu"),
    "scope:notifications:write": ("send texts to customers", "kutuma ujumbe kwa wateja"),
    "scope:privacy:manage": ("export and erase people's data", "kutoa na kufuta data za watu"),
    "scope:audit:read": ("read the audit log", "kusoma kumbukumbu za ukaguzi"),
    "scope:apps:manage": ("manage apps", "kusimamia programu"),
    "scope:users:manage": ("manage users", "kusimamia watumiaji"),
    "scope:webhooks:manage": ("manage webhooks", "kusimamia webhooks"),
}


_TURNS: Final = str.maketrans("", "", DIRECTION_SIGNS)


def text(key: str, language: Language, **parts: str) -> str:
    """A text of these pages, with its parts escaped."""
    words = _TEXTS[key][LANGUAGES.index(language)]
    shown = {name: escape(part.translate(_TURNS)) for name, part in parts.items()}
    return escape(words).format(**shown)


def choose_language(ui_locales: str | None, accept_language: str) -> Language:
    """The first language we have of those wanted (BCP 47 tags); English otherwise."""
    wanted = (ui_locales or "").split()
    ranked: list[tuple[float, str]] = []
    for part in accept_language.split(",")[:20]:
        tag, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((-float(quality or 1), tag))
        except ValueError:
            continue
    wanted += [tag for rank, tag in sorted(ranked, key=lambda pair: pair[0]) if rank]
    for tag in wanted:
        for language in LANGUAGES:
            if tag.lower().partition("-")[0] == language:
                return language
    return "en"


def policy(*, form_action: str = "'none'", script_nonce: str | None = None) -> str:
    """The content security policy of a page."""
    script = "" if script_nonce is None else f"script-src 'nonce-{script_nonce}'; "
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; {script}base-uri 'none'; "
        f"form-action {form_action}; frame-ancestors 'none'"
    )


def _page(language: Language, title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta name="robots" content="noindex">'
        f"<title>{title} - Savannah</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )


def _hidden(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in pairs
    )


def login_page(
    language: Language,
    *,
    action: str,
    hidden: Mapping[str, str],
    app: str,
    username: str = "",
    problem: str | None = None,
) -> str:
    """Asks for user name and password; `problem` is the key of what went wrong before."""
    alert = "" if problem is None else f'<p role="alert" id="problem">{text(problem, language)}</p>'
    described = "" if problem is None else ' aria-describedby="problem" aria-invalid="true"'
    first, second = (" autofocus", "") if not username else ("", " autofocus")
    return _page(
        language,
        text("login", language),
        f"<p>{text('login_for', language, app=app)}</p>{alert}"
        f'<form method="post" action="{escape(action)}">{_hidden(hidden)}'
        f'<label for="username">{text("username", language)}</label>'
        f'<input id="username" name="username" autocomplete="username" autocapitalize="none" '
        f'spellcheck="false" required value="{escape(username)}"{first}{described}>'
        f'<label for="password">{text("password", language)}</label>'
        f'<input id="password" name="password" type="password" '
        f'autocomplete="current-password" required{second}{described}>'
        f"<button>{text('login', language)}</button></form>",
    )


def consent_page(
    language: Language,
    *,
    action: str,
    hidden: Mapping[str, str],
    app: str,
    user: str,
    scopes: Iterable[str],
    host: str,
) -> str:
    """Asks whether an app may have these scopes."""
    listed = "".join(f"<li>{text(f'scope:{scope}', language)}</li>" for scope in scopes)
    title = text("consent", language, app=app)
    return _page(
        language,
        title,
        f"<p>{text('consent_user', language, user=user)}</p>"
        f'<p id="what">{text("consent_list", language)}</p><ul aria-labelledby="what">{listed}'
        f'</ul><p class="small">{text("consent_to", language, host=host)}</p>'
        f'<form method="post" action="{escape(action)}">{_hidden(hidden)}'
        f'<button name="decision" value="allow">{text("allow", language)}</button>'
        f'<button name="decision" value="deny" class="plain">{text("deny", language)}</button>'
        "</form>",
    )


def logout_page(language: Language, *, action: str, hidden: Iterable[tuple[str, str]]) -> str:
    """Asks whether the person wants to log out."""
    return _page(
        language,
        text("logout", language),
        f"<p>{text('logout_question', language)}</p>"
        f'<form method="post" action="{escape(action)}">{_hidden(hidden)}'
        f"<button>{text('logout', language)}</button></form>",
    )


def logged_out_page(language: Language) -> str:
    return _page(
        language, text("logged_out", language), f"<p>{text('logged_out_more', language)}</p>"
    )


def refusal_page(language: Language, *, error: str, description: str) -> str:
    """Says why a request cannot go on; both texts are ours and repeat nothing."""
    return _page(
        language,
        text("refused", language),
        f'<p>{text("refused_more", language)}</p><p class="small"><code>{escape(error)}</code> '
        f'<span lang="en">{escape(description)}</span></p>',
    )


def trouble_page(language: Language, *, key: str = "later") -> str:
    return _page(language, text("refused", language), f'<p role="alert">{text(key, language)}</p>')


def form_post_page(
    language: Language, *, action: str, fields: Mapping[str, str], nonce: str
) -> str:
    """Hands an answer to the app by POST; with a button where scripts do not run.

    Source: OAuth 2.0 Form Post Response Mode.
    """
    return _page(
        language,
        text("continue", language),
        f"<p>{text('continue_more', language)}</p>"
        f'<form id="answer" method="post" action="{escape(action)}">{_hidden(fields)}'
        f"<button>{text('continue', language)}</button></form>"
        f'<script nonce="{nonce}">document.getElementById("answer").submit()</script>',
    )
