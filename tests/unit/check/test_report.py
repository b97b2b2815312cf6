"""
Tests for the output.
"""

import json
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from echod.check import report
from echod.check.conformance import CASES
from echod.check.ping import LatencyHistogram
from echod.check.results import CaseResult, CheckError, CheckResult, Outcome, Times, TLSSession

SESSION = TLSSession("TLSv1.3", "TLS_AES_256_GCM_SHA384", "x25519", "h2", ("a", "b"), 7, True)


def latencies(*seconds):
    made = LatencyHistogram()
    for each in seconds:
        made.add(each)
    return made


class TextTests(SynchronousTestCase):
    """
    Tests for the text.
    """

    def test_duration(self):
        """
        A time has three significant digits and a unit.
        """
        for seconds, text in (
            (0.0000123, "0.012 ms"),
            (0.001234, "1.23 ms"),
            (0.01234, "12.3 ms"),
            (0.1234, "123.4 ms"),
            (12.345, "12.35 s"),
        ):
            self.assertEqual(report.duration(seconds), text)

    def test_answer(self):
        """
        One line has the server, the outcome, and the known times.
        """
        answer = CheckResult("192.0.2.1:7", "", 64, Times(resolve=0.001, total=0.5))
        self.assertEqual(
            report.result_text("192.0.2.1:7", answer),
            "192.0.2.1:7: ok, 64 bytes; resolve 1.00 ms; total 500.0 ms",
        )
        times = Times(connect=0.001, echo=0.003, close=0.002, first_byte=0.002, total=0.006)
        self.assertEqual(
            report.result_text("192.0.2.1:7", CheckResult("192.0.2.1:7", "", 64, times)),
            "192.0.2.1:7: ok, 64 bytes; connect 1.00 ms, echo 3.00 ms (first byte 2.00 ms), "
            "close 2.00 ms; total 6.00 ms",
        )
        self.assertIn("echo:7 (192.0.2.1:7): ok", report.result_text("echo:7", answer))
        answer.failure = CheckError(Outcome.RESET, "a\x1bb")
        self.assertEqual(
            report.result_text("echo\n:7", answer), "echo\\n:7 (192.0.2.1:7): reset: a\\x1bb"
        )

    def test_color(self):
        """
        On a terminal, what passed is green and what failed is red.
        """
        failure = CheckError(Outcome.RESET, "gone")
        self.assertIn(": \x1b[32mok\x1b[0m, 0", report.result_text("x", CheckResult(), True))
        text = report.result_text("x", CheckResult(failure=failure), True)
        self.assertEqual(text, "x: \x1b[31mreset\x1b[0m: gone")
        text = report.echo_text(3, 64, "", failure, True)
        self.assertEqual(text, "seq=3 \x1b[31mreset\x1b[0m: gone")
        for each, word in ((None, "\x1b[32mpass\x1b[0m"), (failure, "\x1b[31mFAIL\x1b[0m")):
            self.assertIn(word, report.case_text(CaseResult("x", 1, 0, 0.25, each), True))

    def test_session(self):
        """
        The TLS session is one line; what is not known is left out.
        """
        self.assertEqual(
            report.session_text(SESSION),
            "TLSv1.3; TLS_AES_256_GCM_SHA384; x25519; ALPN h2; certificate for a, b; 7 days left",
        )
        self.assertEqual(
            report.session_text(TLSSession("TLSv1.2", "X", None, None, (), -2, False)),
            "TLSv1.2; X; certificate for no name; expired 2 days ago; NOT VERIFIED (--insecure)",
        )
        pinned = replace(SESSION, fingerprint=True)
        self.assertTrue(report.session_text(pinned).endswith("; verified by --fingerprint"))

    def test_echo(self):
        """
        A line for each message, back or lost.
        """
        self.assertEqual(
            report.echo_text(3, 64, "192.0.2.1:7", 0.001),
            "64 bytes from 192.0.2.1:7: seq=3 time=1.00 ms",
        )
        failure = CheckError(Outcome.RESET, "gone\n")
        self.assertEqual(report.echo_text(3, 64, "", failure), "seq=3 reset: gone\\n")

    def test_progress(self):
        """
        The progress is one line.
        """
        self.assertEqual(report.progress_text(3.2, 5, latencies()), "3 s: 5 sent, 0 back")
        self.assertEqual(
            report.progress_text(3.2, 5, latencies(0.5)),
            "3 s: 5 sent, 1 back, median 500.0 ms, max 500.0 ms",
        )

    def test_ping(self):
        """
        The summary has counts, times and a histogram.
        """
        text = report.ping_text("echo:7", 5, latencies(1e-3, 1e-3, 1e-3, 3.9e-3), 4)
        self.assertEqual(
            text.splitlines(),
            [
                "--- echo:7 ---",
                "5 sent, 4 received, 20% loss, in 4.0 s (1/s)",
                "min 1.00 ms, median 1.00 ms, p90 3.90 ms, p99 3.90 ms, p99.9 3.90 ms, max 3.90 ms",
                "  to 1.02 ms        3 " + "#" * 40,
                "  to 2.05 ms        0",
                "  to 4.10 ms        1 " + "#" * 14,
            ],
        )
        self.assertIn("0 sent, 0 received, 0% loss", report.ping_text("x", 0, latencies(), 0))

    def test_ping_failure(self):
        """
        The last failure follows the counts, escaped, with its outcome in red.
        """
        failure = CheckError(Outcome.REFUSED, "a\x1bb")
        for color, word in ((False, "refused"), (True, "\x1b[31mrefused\x1b[0m")):
            text = report.ping_text("x", 1, latencies(), 1, failure, color)
            self.assertEqual(text.splitlines()[2], f"last failure: {word}: a\\x1bb")

    def test_case(self):
        """
        A case is one line: passed or failed, and the bytes lost.
        """
        self.assertEqual(
            report.case_text(CaseResult("64 MiB", 1 << 26, 0, 0.25, None)).split(),
            ["64", "MiB", "pass", "0", "lost", "250.0", "ms"],
        )
        text = report.case_text(CaseResult("x", 9, 3, 0.25, CheckError(Outcome.LOST, "3\x07")))
        self.assertIn("FAIL", text)
        self.assertTrue(text.endswith("lost: 3\\x07"), text)

    def test_case_columns(self):
        """
        A space follows the name of each case.
        """
        for name, _ in CASES:
            text = report.case_text(CaseResult(name, 1, 0, 0.25, None))
            self.assertTrue(text.startswith(f"{name} "), text)


class JSONTests(SynchronousTestCase):
    """
    Tests for the JSON.
    """

    def test_answer(self):
        """
        A result has each field, C{null} when it is not known.
        """
        answer = CheckResult("192.0.2.1:7", "", 64, Times(connect=0.00123456), SESSION)
        found = json.loads(json.dumps(report.result_json("echo:7", answer)))
        self.assertEqual(found["ms"]["connect"], 1.235)
        self.assertIsNone(found["ms"]["resolve"])
        self.assertEqual((found["outcome"], found["status"]), ("ok", 0))
        self.assertEqual(found["tls"]["names"], ["a", "b"])
        failed = report.result_json("x", CheckResult(failure=CheckError(Outcome.LOST, "1 byte")))
        self.assertEqual((failed["outcome"], failed["detail"]), ("lost", "1 byte"))
        self.assertEqual((failed["status"], failed["tls"]), (9, None))

    def test_ping(self):
        """
        A summary without echoes has no times.
        """
        found = report.ping_json("x", 3, latencies(0.001, 0.001), 1.5)
        self.assertEqual((found["sent"], found["received"], found["lost"]), (3, 2, 1))
        self.assertEqual(list(found["ms"]), ["min", "median", "p90", "p99", "p99.9", "max"])
        self.assertEqual((found["ms"]["max"], found["rate"]), (1.0, 1.333))
        self.assertEqual((found["outcome"], found["detail"], found["status"]), ("ok", None, 0))
        self.assertEqual(found["histogram"], [{"ms": 1.024, "number": 2}])
        failure = CheckError(Outcome.RESET, "gone")
        found = report.ping_json("x", 3, latencies(0.001), 1.5, Outcome.FAILED, failure)
        self.assertEqual(
            (found["outcome"], found["detail"], found["status"]), ("failed", "reset: gone", 1)
        )
        self.assertIsNone(report.ping_json("x", 3, latencies(), 1.5)["ms"]["max"])

    def test_case(self):
        """
        A case has its name, bytes and outcome.
        """
        found = report.case_json(CaseResult("x", 9, 3, 0.25, CheckError(Outcome.LOST, "3 bytes")))
        self.assertEqual(
            found,
            {
                "case": "x",
                "passed": False,
                "bytes": 9,
                "lost": 3,
                "seconds": 0.25,
                "outcome": "lost",
                "detail": "3 bytes",
            },
        )
