"""
Formats results as text for people and as JSON for programs.

Invariant: in text, what the server sent is escaped, and each figure has its unit.
"""

from typing import TYPE_CHECKING, Any

from echod._util.text import escape
from echod.check.results import CaseResult, CheckError, CheckResult, TLSSession

if TYPE_CHECKING:
    # Imported with --ping only.
    from echod.check.ping import LatencyHistogram

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


def result_text(target: str, result: CheckResult) -> str:
    """
    One line: the outcome and the times of a check.
    """
    server = escape(target)
    if result.peer and result.peer != target:
        server += f" ({result.peer})"
    if result.failure:
        return f"{server}: {escape(str(result.failure))}"
    times = ", ".join(f"{name} {duration(value)}" for name, value in result.times.stages())
    return f"{server}: ok, {result.received} bytes; {times}"


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
    if not session.verified:
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
        "ms": {name: milliseconds(value) for name, value in vars(result.times).items()},
        "tls": None if session is None else {**vars(session), "names": list(session.names)},
    }


def echo_text(number: int, size: int, peer: str, result: float | CheckError) -> str:
    """
    One line: a message of C{--ping}.
    """
    if isinstance(result, CheckError):
        return f"seq={number} {escape(str(result))}"
    return f"{size} bytes from {peer}: seq={number} time={duration(result)}"


def progress_text(elapsed: float, sent: int, latencies: "LatencyHistogram") -> str:
    """
    The progress of C{--ping}.
    """
    text = f"{elapsed:.0f} s: {sent} sent, {latencies.count} back"
    if latencies.count:
        text += f", median {duration(latencies.percentile(50))}, max {duration(latencies.max)}"
    return text


def ping_text(target: str, sent: int, latencies: "LatencyHistogram", elapsed: float) -> str:
    """
    The summary of C{--ping}: counts, times and a histogram.
    """
    lost = sent - latencies.count
    loss = 100 * lost / sent if sent else 0.0
    lines = [
        f"--- {escape(target)} ---",
        f"{sent} sent, {latencies.count} received, {loss:.3g}% loss, in {elapsed:.1f} s",
    ]
    if latencies.count:
        figures = zip(("min", "median", "p99", "max"), _figures(latencies), strict=True)
        lines.append(", ".join(f"{name} {duration(value)}" for name, value in figures))
        rows = latencies.histogram()
        highest = max(number for _, number in rows)
        for bound, number in rows:
            bar = "#" * -(-number * BAR_WIDTH // highest)
            lines.append(f"{'to ' + duration(bound):>12} {number:>8} {bar}".rstrip())
    return "\n".join(lines)


def _figures(latencies: "LatencyHistogram") -> tuple[float, float, float, float]:
    return latencies.min, latencies.percentile(50), latencies.percentile(99), latencies.max


def ping_json(
    target: str, sent: int, latencies: "LatencyHistogram", elapsed: float
) -> dict[str, Any]:
    """
    The summary of C{--ping} as JSON.
    """
    names = ("min", "median", "p99", "max")
    figures: Any = _figures(latencies) if latencies.count else (None,) * 4
    return {
        "target": target,
        "sent": sent,
        "received": latencies.count,
        "lost": sent - latencies.count,
        "seconds": round(elapsed, 3),
        "ms": {name: milliseconds(value) for name, value in zip(names, figures, strict=True)},
        "histogram": [
            {"ms": milliseconds(bound), "number": number} for bound, number in latencies.histogram()
        ],
    }


def case_text(result: CaseResult) -> str:
    """
    One line: a case of C{--conformance}.
    """
    word = "pass" if result.passed else "FAIL"
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
