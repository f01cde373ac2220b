"""What our text messages say, and how many parts they cost.

The wording per event and language, the fitting of long names into it, and the counting of
GSM 03.38 parts. When a message is sent, and to whom, is decided in `notification`.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from savannah.domain.text import DIRECTION_SIGNS


class SmsEvent(StrEnum):
    """What happened to an order that its customer is told about."""

    ORDER_CREATED = "order_created"
    ORDER_SHIPPED = "order_shipped"
    ORDER_DELIVERED = "order_delivered"
    ORDER_CANCELLED = "order_cancelled"


class Locale(StrEnum):
    """The languages a customer can be addressed in."""

    EN = "en"
    SW = "sw"


class Encoding(StrEnum):
    """How a text travels: seven bits a character, or sixteen as soon as one needs it."""

    GSM7 = "gsm7"
    UCS2 = "ucs2"


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What a text costs: `units` are septets in GSM-7 and UTF-16 units in UCS-2."""

    encoding: Encoding
    segments: int
    units: int


# Source: 3GPP TS 23.038, default alphabet and its extension table. ESC is a shift, not a letter.
_GSM7_EXTENSION: Final = frozenset("\f^{}\\[~]|€")
_GSM7: Final = _GSM7_EXTENSION | frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)


def segment(text: str) -> Segmentation:
    """Count the parts a text is sent and billed in; an empty text has none.

    One part holds 160 septets or 70 UTF-16 units; a longer text gives up room in each part for
    the joining header (153 and 67), and no character is ever cut across two parts.
    Source: 3GPP TS 23.040, concatenated short messages with an 8-bit reference.
    """
    if _GSM7.issuperset(text):
        encoding, alone, joined = Encoding.GSM7, 160, 153
        widths = [2 if char in _GSM7_EXTENSION else 1 for char in text]
    else:
        encoding, alone, joined = Encoding.UCS2, 70, 67
        widths = [2 if char > "\uffff" else 1 for char in text]
    units = sum(widths)
    if units <= alone:
        return Segmentation(encoding, min(1, units), units)
    segments, room = 1, joined
    for width in widths:
        if width > room:
            segments, room = segments + 1, joined
        room -= width
    return Segmentation(encoding, segments, units)


_TEMPLATES: Final = {
    (SmsEvent.ORDER_CREATED, Locale.EN): (
        "Hi {name}, thank you for your order {order}: {item}. Total {total}. "
        "We will text you when it ships."
    ),
    (SmsEvent.ORDER_CREATED, Locale.SW): (
        "Habari {name}, asante kwa agizo lako {order}: {item}. Jumla ni {total}. "
        "Tutakujulisha likitumwa."
    ),
    (SmsEvent.ORDER_SHIPPED, Locale.EN): (
        "Hi {name}, good news: your order {order} ({item}, total {total}) "
        "has been shipped and is on its way."
    ),
    (SmsEvent.ORDER_SHIPPED, Locale.SW): (
        "Habari {name}, agizo lako {order} ({item}, jumla {total}) limetumwa na liko njiani."
    ),
    (SmsEvent.ORDER_DELIVERED, Locale.EN): (
        "Hi {name}, your order {order} ({item}, total {total}) has been delivered. "
        "Thank you for shopping with us."
    ),
    (SmsEvent.ORDER_DELIVERED, Locale.SW): (
        "Habari {name}, agizo lako {order} ({item}, jumla {total}) limefikishwa. "
        "Asante kwa kununua kwetu."
    ),
    (SmsEvent.ORDER_CANCELLED, Locale.EN): (
        "Hi {name}, your order {order} ({item}, total {total}) has been cancelled. "
        "Please contact us if you have any questions."
    ),
    (SmsEvent.ORDER_CANCELLED, Locale.SW): (
        "Habari {name}, agizo lako {order} ({item}, jumla {total}) limeghairiwa. "
        "Ukiwa na swali, tafadhali wasiliana nasi."
    ),
}

_ELLIPSIS: Final = "..."


def render(
    event: SmsEvent,
    locale: Locale,
    *,
    name: str,
    order_number: str,
    item: str,
    quantity: int,
    total: str,
    currency: str,
    max_segments: int = 3,
) -> str:
    """Write the text for one event, in at most `max_segments` (1 or more) parts.

    When it is too long the item is shortened, and the name only when even a text without the
    item would not fit. The order number and the total always stand in full.
    """
    template = _TEMPLATES[event, locale]
    times = f"{quantity} x " if quantity > 1 else ""

    def text(name: str, item: str) -> str:
        return template.format(
            name=name, order=order_number, item=times + item, total=f"{currency} {total}"
        )

    def fits(name: str, item: str) -> bool:
        return segment(text(name, item)).segments <= max_segments

    name, item = _clean(name), _clean(item)
    if not fits(name, item):
        name = _shorten(name, lambda shorter: fits(shorter, _ELLIPSIS))
        item = _shorten(item, lambda shorter: fits(name, shorter))
    return text(name, item)


# Characters a phone keyboard or a word processor puts in, which would make the text sixteen-bit
# and so more than double its price. Letters that GSM-7 lacks are kept: people are called so.
_PLAIN: Final = str.maketrans(
    {
        **dict.fromkeys("`´‘’‚‛‹›′ʹʻʼ", "'"),
        **dict.fromkeys("“”„‟«»″", '"'),
        **dict.fromkeys("‐‑‒–—―−•·", "-"),
        "…": _ELLIPSIS,
        "×": "x",
        # Invisible: soft hyphen, zero-width space, word joiner, byte order mark.
        **dict.fromkeys("\u00ad\u200b\u2060\ufeff"),
        # They come along when a name is copied from a phone.
        **dict.fromkeys(DIRECTION_SIGNS),
    }
)


def _clean(value: str) -> str:
    """Put a name or an item on one line, in the cheapest characters that say the same."""
    plain = unicodedata.normalize("NFC", value).translate(_PLAIN)
    if not plain.isprintable():
        # Other control characters and lone surrogates cannot be sent at all.
        plain = "".join(
            char
            for char in plain
            if char.isspace() or unicodedata.category(char) not in {"Cc", "Cs"}
        )
    return " ".join(plain.split())


def _shorten(value: str, fits: Callable[[str], bool]) -> str:
    """Give the longest beginning that fits, with an ellipsis; the whole value if that fits."""
    if fits(value):
        return value
    shorter = [value[:cut].rstrip() + _ELLIPSIS for cut in _cuts(value)]
    # A longer beginning never needs fewer parts, so the ones that fit come first.
    fitting = bisect_left(shorter, True, key=lambda candidate: not fits(candidate))
    return shorter[max(0, fitting - 1)]


_JOINER: Final = "\u200d"


def _cuts(value: str) -> list[int]:
    """Where a text can end without changing the last character a reader sees.

    An approximation of the grapheme clusters of Unicode TR 29: accents, joined emoji, skin tones
    and flags stay whole.
    """
    cuts = [0]
    flag_letters = 0
    for at in range(1, len(value)):
        before, after = value[at - 1], value[at]
        flag_letters = flag_letters + 1 if "\U0001f1e6" <= before <= "\U0001f1ff" else 0
        if (
            _extends(after)
            or before == _JOINER
            or (flag_letters % 2 and "\U0001f1e6" <= after <= "\U0001f1ff")
        ):
            continue
        cuts.append(at)
    return cuts


def _extends(char: str) -> bool:
    return (
        char == _JOINER
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # skin tones
        or "\U000e0020" <= char <= "\U000e007f"  # the letters inside regional flags
        or unicodedata.category(char).startswith("M")
    )
