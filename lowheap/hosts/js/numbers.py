"""Numbers as JavaScript writes and reads them."""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Decimal, localcontext

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MOST_DIGITS = 100
SPACE = (
    " \t\n\v\f\r\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
"""What JavaScript takes for space."""

_FLOAT = re.compile(r"[+-]?(?:Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)")
_PREFIXES = {"0x": 16, "0o": 8, "0b": 2}


def number_to_string(value: int | float, radix: int = 10) -> str:
    """Return what `value.toString(radix)` returns. Of numbers beyond 2^53 all digits are exact, which V8's are not."""
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
    if value == 0:
        return "0"
    if radix != 10:
        return _in_radix(value, radix)
    if isinstance(value, int) and abs(value) <= 1 << 53:
        return str(int(value))
    sign = "-" if value < 0 else ""
    digits, exponent = _shortest(abs(float(value)))
    return sign + _placed(digits, exponent)


def _shortest(value: float) -> tuple[str, int]:
    """The fewest digits that tell a positive number, and where the point is: after so many of them."""
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + ("" if fraction == "0" else fraction)
    point = len(whole) + int(exponent or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    return stripped.rstrip("0") or "0", point


def _placed(digits: str, point: int) -> str:
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    return _scientific(digits, point - 1)


def _scientific(digits: str, exponent: int) -> str:
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{'+' if exponent >= 0 else '-'}{abs(exponent)}"


def _in_radix(value: int | float, radix: int) -> str:
    if isinstance(value, int):
        return integer_in_radix(value, radix)
    sign, value = ("-", -value) if value < 0 else ("", value)
    digits = integer_in_radix(int(value), radix)
    fraction = value - int(value)
    if not fraction:
        return sign + digits
    # As many digits as tell the number from its neighbours.
    delta = max(0.5 * (math.nextafter(value, math.inf) - value), math.nextafter(0.0, 1.0))
    after = []
    while fraction >= delta:
        fraction *= radix
        delta *= radix
        digit = int(fraction)
        after.append(digit)
        fraction -= digit
        if (fraction > 0.5 or (fraction == 0.5 and digit & 1)) and fraction + delta > 1:
            return sign + _rounded_up(int(value), after, radix)
    return sign + digits + "." + "".join(_DIGITS[each] for each in after)


def integer_in_radix(value: int, radix: int) -> str:
    """Return a whole number's digits."""
    sign, value = ("-", -value) if value < 0 else ("", value)
    digits = ""
    while value:
        value, digit = divmod(value, radix)
        digits = _DIGITS[digit] + digits
    return sign + (digits or "0")


def _rounded_up(whole: int, after: list[int], radix: int) -> str:
    while after:
        after[-1] += 1
        if after[-1] < radix:
            break
        after.pop()
    else:
        whole += 1
    return integer_in_radix(whole, radix) + ("." + "".join(_DIGITS[each] for each in after) if after else "")


def to_fixed(value: int | float, digits: int) -> str:
    """Return what `value.toFixed(digits)` returns. ValueError for so many digits as cannot be."""
    if not 0 <= digits <= _MOST_DIGITS:
        raise ValueError("toFixed() digits argument must be between 0 and 100")
    if not math.isfinite(value) or abs(value) >= 1e21:
        return number_to_string(value)
    with localcontext() as context:
        context.prec = 1000
        rounded = abs(Decimal(value)).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP)
    text = f"{rounded:f}"
    return f"-{text}" if value < 0 else text


def to_exponential(value: int | float, digits: int | None) -> str:
    """Return what `value.toExponential(digits)` returns; None: as many as are needed."""
    if not math.isfinite(value):
        return number_to_string(value)
    sign, value = ("-", -value) if value < 0 else ("", value)
    if digits is None:
        found, point = _shortest(float(value)) if value else ("0", 1)
        return sign + _scientific(found, point - 1)
    if not 0 <= digits <= _MOST_DIGITS:
        raise ValueError("toExponential() argument must be between 0 and 100")
    found, exponent = _rounded(value, digits + 1)
    return sign + _scientific(found, exponent)


def to_precision(value: int | float, precision: int) -> str:
    """Return what `value.toPrecision(precision)` returns."""
    if not math.isfinite(value):
        return number_to_string(value)
    if not 1 <= precision <= _MOST_DIGITS:
        raise ValueError("toPrecision() argument must be between 1 and 100")
    sign, value = ("-", -value) if value < 0 else ("", value)
    digits, exponent = _rounded(value, precision)
    if exponent < -6 or exponent >= precision:
        return sign + _scientific(digits, exponent)
    if exponent == precision - 1:
        return sign + digits
    if exponent >= 0:
        return f"{sign}{digits[: exponent + 1]}.{digits[exponent + 1 :]}"
    return f"{sign}0.{'0' * (-exponent - 1)}{digits}"


def _rounded(value: int | float, count: int) -> tuple[str, int]:
    """So many digits of a number that is not negative, and its exponent."""
    if value == 0:
        return "0" * count, 0
    with localcontext() as context:
        context.prec, context.rounding = count, ROUND_HALF_UP
        rounded = +Decimal(value)
    text = "".join(map(str, rounded.as_tuple().digits))
    return text.ljust(count, "0")[:count], rounded.adjusted()


def parse_float(text: str) -> int | float:
    """Return what `parseFloat(text)` returns: the number that a text begins with."""
    found = _FLOAT.match(text.lstrip(SPACE))
    return _simple(float(found[0])) if found else math.nan


def parse_int(text: str, radix: int = 0) -> int | float:
    """Return what `parseInt(text, radix)` returns."""
    text = text.lstrip(SPACE).lower()
    sign = -1 if text.startswith("-") else 1
    text = text[1:] if text[:1] in ("+", "-") else text
    if radix in (0, 16) and text.startswith("0x"):
        text, radix = text[2:], 16
    radix = radix or 10
    if not 2 <= radix <= 36:
        return math.nan
    count = 0
    while count < len(text) and text[count] in _DIGITS[:radix]:
        count += 1
    return _simple(float(sign * int(text[:count], radix))) if count else math.nan


def parse_number(text: str) -> int | float:
    """Return what `Number(text)` returns: the number that the whole text is."""
    text = text.strip(SPACE)
    if not text:
        return 0
    if text[:2].lower() in _PREFIXES:
        try:
            return int(text[2:], _PREFIXES[text[:2].lower()]) if text[2:].isalnum() else math.nan
        except ValueError:
            return math.nan
    return _simple(float(text)) if _FLOAT.fullmatch(text) else math.nan


def _simple(value: float) -> int | float:
    """A number as an int, where that is the same."""
    is_whole = math.isfinite(value) and value == int(value) and abs(value) <= 1 << 53
    return int(value) if is_whole and (value or math.copysign(1, value) > 0) else value
