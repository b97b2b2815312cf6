"""
What a check has found, for people and for programs.

Invariant: whatever a server said is shown in printable characters, and a
figure has its unit beside it.
"""

from typing import TYPE_CHECKING, Any

from echod._util.text import escape
from echod.check.results import CaseResult, CheckFailed, CheckResult, TLSSession

if TYPE_CHECKING:
    from echod.check.ping import LatencyHistogram

BAR_WIDTH = 40


def duration(seconds: float) -> str:
    """
    A time with three digits that mean something.
    """
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1000
    return f"{milliseconds:.{1 if milliseconds >= 10 else 2 if milliseconds >= 1 else 3}f} ms"


def milliseconds(seconds: float | None) -> float | None:
    """
    The same for a program.
    """
    return None if seconds is None else round(seconds * 1000, 3)


def answer_text(target: str, answer: CheckResult) -> str:
    """
    One line: how it ended, and the times.
    """
    where = escape(target)
    if answer.peer and answer.peer != target:
        where += f" ({answer.peer})"
    if answer.failure:
        return f"{where}: {escape(str(answer.failure))}"
    times = ", ".join(f"{name} {duration(value)}" for name, value in answer.times.stages())
    return f"{where}: ok, {answer.received} bytes; {times}"


def session_text(session: TLSSession) -> str:
    """
    One line: what TLS agreed on.
    """
    parts = [session.version, session.cipher]
    if session.group:
        parts.append(session.group)
    if session.alpn:
        parts.append(f"ALPN {session.alpn}")
    parts.append(f"certificate for {', '.join(session.names) or 'nobody'}")
    days = session.days_left
    parts.append(f"{days} days left" if days >= 0 else f"expired {-days} days ago")
    if not session.verified:
        parts.append("NOT VERIFIED (--insecure)")
    return "; ".join(parts)


def failure_json(failure: CheckFailed | None) -> dict[str, Any]:
    """
    How it ended.
    """
    if failure is None:
        return {"outcome": "ok", "detail": None}
    return {"outcome": failure.outcome.word, "detail": failure.detail}


def answer_json(target: str, answer: CheckResult) -> dict[str, Any]:
    """
    All that one check found.
    """
    session = answer.session
    return {
        "target": target,
        "peer": answer.peer,
        **failure_json(answer.failure),
        "status": answer.outcome.status,
        "bytes": answer.received,
        "ms": {name: milliseconds(value) for name, value in vars(answer.times).items()},
        "tls": None if session is None else {**vars(session), "names": list(session.names)},
    }


def echo_text(number: int, size: int, peer: str, result: float | CheckFailed) -> str:
    """
    One line for one message of C{--ping}.
    """
    if isinstance(result, CheckFailed):
        return f"seq={number} {escape(str(result))}"
    return f"{size} bytes from {peer}: seq={number} time={duration(result)}"


def progress_text(elapsed: float, sent: int, latencies: "LatencyHistogram") -> str:
    """
    Where C{--ping} is now.
    """
    text = f"{elapsed:.0f} s: {sent} sent, {latencies.count} back"
    if latencies.count:
        median, most = latencies.percentile(50), latencies.most
        text += f", median {duration(median)}, max {duration(most)}"
    return text


def ping_text(target: str, sent: int, latencies: "LatencyHistogram", elapsed: float) -> str:
    """
    The summary of C{--ping}: counts, times, and how they are spread.
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
        most = max(number for _, number in rows)
        for limit, number in rows:
            bar = "#" * -(-number * BAR_WIDTH // most)
            lines.append(f"{'to ' + duration(limit):>12} {number:>8} {bar}".rstrip())
    return "\n".join(lines)


def _figures(latencies: "LatencyHistogram") -> tuple[float, float, float, float]:
    return latencies.least, latencies.percentile(50), latencies.percentile(99), latencies.most


def ping_json(
    target: str, sent: int, latencies: "LatencyHistogram", elapsed: float
) -> dict[str, Any]:
    """
    The same for a program.
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
            {"ms": milliseconds(limit), "number": number} for limit, number in latencies.histogram()
        ],
    }


def case_text(result: CaseResult) -> str:
    """
    One line of the table of C{--conformance}.
    """
    word = "pass" if result.passed else "FAIL"
    line = f"{result.name:<36}{word}{result.lost:>12} lost{duration(result.seconds):>10}"
    return line if result.failure is None else f"{line}  {escape(str(result.failure))}"


def case_json(result: CaseResult) -> dict[str, Any]:
    """
    The same for a program.
    """
    return {
        "case": result.name,
        "passed": result.passed,
        "bytes": result.sent,
        "lost": result.lost,
        "seconds": round(result.seconds, 3),
        **failure_json(result.failure),
    }
