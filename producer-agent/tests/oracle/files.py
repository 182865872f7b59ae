"""Makes small files and says what stands in them, by Python's own csv, decimal, datetime and json.

    python3 files.py SEED COUNT        # one JSON object a line

It shares no code with the agent. A delimited file has two columns; a value stands alone under a type. "rows" and "value" are what
is right; "refused" says that nothing is.
"""
import csv, datetime, decimal, io, json, random, re, sys

decimal.getcontext().prec = 2_000
PIECES = ["a", "b", "ā", " ", ",", ",", '"', '"', '""', "\n", "\n", "\r\n", "\r", ";", "1", "\\", "'"]


def delimited(rng):
    text = "x,y\n" + "".join(rng.choice(PIECES) for _ in range(rng.randrange(28)))
    rows, is_broken = [], False
    try:
        for row in csv.reader(io.StringIO(text, newline=""), strict=True):
            rows.append(row)
    except csv.Error:
        is_broken = True
    return {"text": text, "rows": [row for row in rows if row][1:], "refused": is_broken}


def digits(rng, most):
    return "".join(rng.choice("0123456789") for _ in range(rng.randrange(most + 1)))


def number(rng):
    text = rng.choice(["", "", "-", "+", "--"]) + rng.choice(["", "0", "00"]) + digits(rng, rng.choice([2, 9, 20, 30]))
    if rng.random() < 0.6:
        text += rng.choice([".", ".", ".", ",", ".."]) + digits(rng, rng.choice([1, 3, 18])) + rng.choice(["", "", "000"])
    if rng.random() < 0.25:
        text += rng.choice("eE") + rng.choice(["", "-", "+"]) + digits(rng, 3)
    if rng.random() < 0.1:
        text = rng.choice([" ", ""]) + text + rng.choice([" ", "x", "\u00a0", "NaN", "inf", "_1", "１"])
    return text


PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
WHOLE = re.compile(r"[+-]?[0-9]+")
JSON = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def scaled(value, precision, scale):
    """The decimal with so many digits behind the point, or nothing where it does not hold the value."""
    unscaled = value.scaleb(scale)
    if unscaled != unscaled.to_integral_value() or abs(unscaled) >= 10**precision:
        return None
    number = int(unscaled)
    text = f"{abs(number):0>{scale + 1}}"
    return ("-" if number < 0 else "") + text[: len(text) - scale] + "." + text[len(text) - scale :]


def held(text, value):
    """Whether a float has each digit that was written."""
    written = decimal.Decimal(text).normalize()
    if written == 0:
        return value == 0
    if value == 0 or value in (float("inf"), float("-inf")):
        return False
    count = len(written.as_tuple().digits)
    return decimal.Decimal(f"{value:.{count - 1}e}") == written


def of_text(rng):
    kind = rng.choice(["int", "long", "decimal", "double"])
    text = number(rng)
    bare, value = text.strip(), None
    if kind in ("int", "long") and WHOLE.fullmatch(bare):
        limit = 2**31 if kind == "int" else 2**63
        value = int(bare) if -limit <= int(bare) < limit else None
    elif kind == "decimal" and PLAIN.fullmatch(bare):
        value = scaled(decimal.Decimal(bare), 12, 3)
    elif kind == "double" and FLOAT.fullmatch(bare):
        value = repr(float(bare)) if held(bare, float(bare)) else None
    return {"kind": kind, "plain": text, "value": value}


def of_json(rng):
    kind = rng.choice(["long", "decimal", "string", "double"])
    text = number(rng).strip(" ")
    if not JSON.fullmatch(text):
        return {"kind": kind, "json": text, "value": None}
    exact, value = decimal.Decimal(text), None
    if kind == "string":
        value = text
    elif kind == "decimal":
        value = scaled(exact, 12, 3)
    elif kind == "long" and exact == exact.to_integral_value() and -(2**63) <= exact < 2**63:
        value = int(exact)
    elif kind == "double":
        value = repr(float(text)) if held(text, float(text)) else None
    return {"kind": kind, "json": text, "value": value}


def two(rng, most):
    return f"{rng.randrange(most + 1):02}"


def of_time(rng):
    day = f"{rng.choice([1, 1582, 1969, 1970, 2024, 2026, 9998]):04}-{two(rng, 13)}-{two(rng, 32)}"
    if rng.random() < 0.5:
        text = day + rng.choice(["", "", "", "T00:00:00", " ", "Z"])
        try:
            value = datetime.date.fromisoformat(text.strip()).isoformat() if len(text.strip()) == 10 else None
        except ValueError:
            value = None
        return {"kind": "date", "plain": text, "value": value}
    fraction = rng.choice(["", "." + digits(rng, 9), "." + digits(rng, 3) + "000"])
    zone = rng.choice(["Z", "+02:00", "-11:30", ""])
    clock = f"{two(rng, 24)}:{two(rng, 60)}:{two(rng, 60)}"
    text, value = f"{day}T{clock}{fraction}{zone}", None
    part = fraction[1:]
    if zone and fraction != "." and len(part.rstrip("0")) <= 3:
        try:
            hour, minute, second = (int(piece) for piece in clock.split(":"))
            date = datetime.date.fromisoformat(day)
            at = datetime.datetime(date.year, date.month, date.day, hour, minute, second)
            sign = {"Z": 0, "+02:00": 120, "-11:30": -690}[zone]
            days = at - datetime.datetime(1970, 1, 1) - datetime.timedelta(minutes=sign)
            value = (days.days * 86_400 + days.seconds) * 1_000 + int((part + "000")[:3] or 0)
            # The instant must have a year from 1 to 9999, too, where the clock is Greenwich's.
            value = value if -62_135_596_800_000 <= value < 253_402_300_800_000 else None
        except ValueError:
            value = None
    return {"kind": "timestamp", "plain": text, "value": value}


def main():
    rng, count = random.Random(int(sys.argv[1])), int(sys.argv[2])
    for _ in range(count):
        made = rng.choice([delimited, delimited, of_text, of_json, of_time])(rng)
        print(json.dumps(made))


main()
