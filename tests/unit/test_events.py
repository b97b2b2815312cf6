"""
The records that the daemon logs, against the table in C{deploy/README.md}.
"""

import ast
import re
from pathlib import Path

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

import echod

ROOT = Path(echod.__file__).resolve().parent
PAGE = (ROOT.parent / "deploy" / "README.md").read_text()

LEVELS = {level.name for level in LogLevel.iterconstants()}
LOUDEST = {"failure": "critical", "failuresHandled": "critical"}


def calls(source):
    """
    Every call that logs, in a module that calls its logger C{log}.
    """
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "log"
        ):
            yield node


def event_of(call):
    """
    @return: the word of the event, the levels that can be read off the call, and its fields.
    """
    given = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    event = given.pop("event", None)
    how = call.func.attr
    levels = {LOUDEST.get(how, how)} - {"emit"}
    if how == "emit":
        levels = {
            node.attr
            for node in ast.walk(call.args[0])
            if isinstance(node, ast.Attribute) and node.attr in LEVELS
        }
    fields = set(given) | ({"traceback"} if how in LOUDEST else set())
    return event and event.value, levels, fields


def logged():
    """
    What the daemon logs: by event, its levels and its fields.
    """
    found = {}
    for path in ROOT.rglob("*.py"):
        for call in calls(path.read_text()):
            event, levels, fields = event_of(call)
            known = found.setdefault(event, (set(), set()))
            known[0].update(levels)
            known[1].update(fields)
    return found


def documented():
    """
    What the page says, likewise.
    """
    _, _, table = PAGE.partition("| event | level | fields | when |\n|---|---|---|---|\n")
    rows = {}
    for line in table.partition("\n\n")[0].splitlines():
        event, levels, fields, when = (cell.strip() for cell in line.strip("|").split(" | "))
        assert when, line
        rows[event.strip("`")] = set(levels.split(", ")), set(re.findall("`(.+?)`", fields))
    return rows


class EventTests(SynchronousTestCase):
    """
    Every record has a word for what happened, and the page lists all of them.
    """

    def test_every_record_has_an_event(self):
        """
        No call that logs goes without one.
        """
        without = [
            f"{path.name}:{call.lineno}"
            for path in ROOT.rglob("*.py")
            for call in calls(path.read_text())
            if not event_of(call)[0]
        ]
        self.assertEqual(without, [])

    def test_events(self):
        """
        The page has each event, and no other.
        """
        self.assertEqual(sorted(documented()), sorted(logged()))

    def test_fields(self):
        """
        The page has the fields of each, and no other.
        """
        fields = {event: sorted(row[1]) for event, row in logged().items()}
        self.assertEqual({event: sorted(row[1]) for event, row in documented().items()}, fields)

    def test_levels(self):
        """
        The page has the levels of each.
        """
        rows, found = documented(), logged()
        for event, (levels, _) in found.items():
            self.assertLessEqual(levels, rows[event][0], event)
            self.assertLessEqual(rows[event][0], LEVELS)
        # Where a level is not written in the call, it is in a table of its own.
        more = {event for event, row in rows.items() if row[0] != found[event][0]}
        self.assertEqual(more, {"refused"})

    def test_access_fields(self):
        """
        The page has the fields of an access record that depend on TLS and on a proxy.
        """
        source = "".join(path.read_text() for path in ROOT.rglob("*.py"))
        names = set(re.findall(r"\"((?:tls|proxy)_[a-z_]+)\"", source))
        self.assertGreater(len(names), 10)
        self.assertEqual({name for name in names if f"`{name}`" not in PAGE}, set())

    def test_this_test(self):
        """
        The calls that are looked for are found.
        """
        source = (
            "log.info('x', event='a', one=1)\n"
            "log.emit(LogLevel.debug if x else LogLevel.info, 'x', event='b', **more)\n"
            "log.failure('x', failure, event='c')\n"
            "log.warn('x')\n"
        )
        self.assertEqual(
            [event_of(call) for call in calls(source)],
            [
                ("a", {"info"}, {"one"}),
                ("b", {"debug", "info"}, set()),
                ("c", {"critical"}, {"traceback"}),
                (None, {"warn"}, set()),
            ],
        )
