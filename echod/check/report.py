"""
Formats results as text for people and as JSON for programs.

Invariant: in text, what the server sent is escaped, and each figure has its unit.
"""

from typing import TYPE_CHECKING, Any

from echod._util.text import escape
from echod.check.results import CaseResult, CheckError, CheckResult, Outcome, TLSSession

if TYPE_CHECKING:
    # Imported with --ping only.
    from echod.check.ping import LatencyHistogram

_GREEN, _RED, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[0m"

BAR_WIDTH = 40
"""The longest bar of the printed histogram, in characters."""


def duration(seconds: float) -> str:
    """
    A time with three significant digits.
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.{1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 3}f} ms"


def milliseconds(seconds: float | None) -> float | None:
    """
    A time for JSON.
    """
    return None if seconds is None else round(seconds * 1000, 3)


def marked(word: str, color: bool, good: bool = True) -> str:
    """
    A word, in green or red on a terminal with colors.
    """
    return f"{_GREEN if good else _RED}{word}{_RESET}" if color else word


def failure_text(failure: CheckError, color: bool = False) -> str:
    """
    The outcome of a check that failed, and its detail.
    """
    return f"{marked(failure.outcome.word, color, good=False)}: {escape(failure.detail)}"


def result_text(target: str, result: CheckResult, color: bool = False) -> str:
    """
    One line: the outcome and the times of a check.  The stages add up to the total.
    """
    server = escape(target)
    if result.peer and result.peer != target:
        server += f" ({result.peer})"
    if result.failure:
        return f"{server}: {failure_text(result.failure, color)}"
    times = result.times.stages()
    parts = [
        f"{name} {duration(value)}"
        for name, value in times.items()
        if value is not None and name not in ("first_byte", "total")
    ]
    text = (
        f"{server}: {marked(Outcome.OK.word, color)}, {result.received} bytes; {', '.join(parts)}"
    )
    if (first_byte := times["first_byte"]) is not None:
        text = text.replace(", close ", f" (first byte {duration(first_byte)}), close ")
    return f"{text}; total {duration(times['total'] or 0.0)}"


def session_text(session: TLSSession) -> str:
    """
    One line: what the TLS handshake negotiated.
    """
    parts = [session.version, session.cipher]
    if session.group:
        parts.append(session.group)
    if session.alpn:
        parts.append(f"ALPN {session.alpn}")
    parts.append(f"certificate for {', '.join(session.names) or 'no name'}")
    days = session.days_left
    parts.append(f"{days} days left" if days >= 0 else f"expired {-days} days ago")
    if session.fingerprint:
        parts.append("verified by --fingerprint")
    elif not session.verified:
        parts.append("NOT VERIFIED (--insecure)")
    return "; ".join(parts)


def failure_json(failure: CheckError | None) -> dict[str, Any]:
    """
    The outcome of a check or a case.
    """
    if failure is None:
        return {"outcome": "ok", "detail": None}
    return {"outcome": failure.outcome.word, "detail": failure.detail}


def result_json(target: str, result: CheckResult) -> dict[str, Any]:
    """
    The result of a check.
    """
    session = result.session
    return {
        "target": target,
        "peer": result.peer,
        **failure_json(result.failure),
        "status": result.outcome.status,
        "bytes": result.received,
        "ms": {name: milliseconds(value) for name, value in result.times.stages().items()},
        "tls": None if session is None else {**vars(session), "names": list(session.names)},
    }


def echo_text(
    number: int, size: int, peer: str, result: float | CheckError, color: bool = False
) -> str:
    """
    One line: a message of C{--ping}.
    """
    if isinstance(result, CheckError):
        return f"seq={number} {failure_text(result, color)}"
    return f"{size} bytes from {peer}: seq={number} time={duration(result)}"


def progress_text(elapsed: float, sent: int, latencies: "LatencyHistogram") -> str:
    """
    The progress of C{--ping}.
    """
    text = f"{elapsed:.0f} s: {sent} sent, {latencies.count} back"
    if latencies.count:
        text += f", median {duration(latencies.percentile(50))}, max {duration(latencies.max)}"
    return text


def ping_text(
    target: str,
    sent: int,
    latencies: "LatencyHistogram",
    elapsed: float,
    failure: CheckError | None = None,
    color: bool = False,
) -> str:
    """
    The summary of C{--ping}: counts, the last failure, times and a histogram.
    """
    lost = sent - latencies.count
    loss = 100 * lost / sent if sent else 0.0
    lines = [
        f"--- {escape(target)} ---",
        f"{sent} sent, {latencies.count} received, {loss:.3g}% loss, in {elapsed:.1f} s "
        f"({rate(latencies.count, elapsed):.4g}/s)",
    ]
    if failure is not None:
        lines.append(f"last failure: {failure_text(failure, color)}")
    if latencies.count:
        figures = _figures(latencies).items()
        lines.append(", ".join(f"{name} {duration(value)}" for name, value in figures))
        rows = latencies.histogram()
        highest = max(number for _, number in rows)
        for bound, number in rows:
            bar = "#" * -(-number * BAR_WIDTH // highest)
            lines.append(f"{'to ' + duration(bound):>12} {number:>8} {bar}".rstrip())
    return "\n".join(lines)


def rate(received: int, elapsed: float) -> float:
    """
    The achieved rate: messages a second that came back.
    """
    return received / elapsed if elapsed else 0.0


PERCENTILES = {"median": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}


def _figures(latencies: "LatencyHistogram") -> dict[str, float]:
    percentiles = {name: latencies.percentile(percent) for name, percent in PERCENTILES.items()}
    return {"min": latencies.min, **percentiles, "max": latencies.max}


def ping_json(
    target: str,
    sent: int,
    latencies: "LatencyHistogram",
    elapsed: float,
    outcome: Outcome = Outcome.OK,
    failure: CheckError | None = None,
) -> dict[str, Any]:
    """
    The summary of C{--ping} as JSON.

    @param outcome: of the whole run.
    @param failure: why the last lost message was lost.
    """
    figures = dict.fromkeys(("min", *PERCENTILES, "max"))
    if latencies.count:
        figures = {name: milliseconds(value) for name, value in _figures(latencies).items()}
    return {
        "target": target,
        "outcome": outcome.word,
        "detail": escape(str(failure)) if failure else None,
        "status": outcome.status,
        "sent": sent,
        "received": latencies.count,
        "lost": sent - latencies.count,
        "seconds": round(elapsed, 3),
        "rate": round(rate(latencies.count, elapsed), 3),
        "ms": figures,
        "histogram": [
            {"ms": milliseconds(bound), "number": number} for bound, number in latencies.histogram()
        ],
    }


def case_text(result: CaseResult, color: bool = False) -> str:
    """
    One line: a case of C{--conformance}.
    """
    word = marked("pass" if result.passed else "FAIL", color, result.passed)
    line = f"{result.name:<38}{word}{result.lost:>12} lost{duration(result.seconds):>10}"
    return line if result.failure is None else f"{line}  {escape(str(result.failure))}"


def case_json(result: CaseResult) -> dict[str, Any]:
    """
    A case of C{--conformance} as JSON.
    """
    return {
        "case": result.name,
        "passed": result.passed,
        "bytes": result.sent,
        "lost": result.lost,
        "seconds": round(result.seconds, 3),
        **failure_json(result.failure),
    }
