"""
The drawing of the house, made law: imports go down the floors.
"""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import echod

ROOT = Path(echod.__file__).resolve().parent

FLOORS = {
    6: {"service"},
    5: {"assembly", "rehearsal"},
    4: {"daemon"},
    3: {"listener", "rotation"},
    2: {"factory", "gate", "protocol", "surroundings"},
    1: {
        "admission", "endpoint", "handshake", "inherited", "inspection", "port", "proxy",
        "reactor", "secure", "secure_end", "tls", "transport", "twistdlog", "unix_transport",
        "whereabouts",
    },
    0: {
        "backlog", "connection", "connections", "credentials", "destination", "header", "keylog",
        "labels", "limits", "logfile", "observers", "openssl", "options", "parameters",
        "refusals", "signals", "sink", "sockets", "syslogger", "systemd", "values", "watch",
    },
}  # fmt: skip

# What is to be seen of the daemon from outside.
FLOORS[3] |= {"admin", "observation"}
FLOORS[2] |= {"page", "site"}
FLOORS[1] |= {"hosts", "metrics", "plot", "table", "tables", "together"}
FLOORS[0] |= {
    *("figures", "histogram", "history", "lag", "markup", "process", "snapshot"),
    *("totals",),
}

# The daemon in several processes.
FLOORS[4] |= {"parent", "worker"}
FLOORS[3] |= {"workers"}
FLOORS[2] |= {"crew"}
FLOORS[1] |= {"child", "command", "prelude"}
FLOORS[0] |= {"assignment", "lifeline", "turns"}

# The client, echod-check.
FLOORS[5] |= {"check"}
FLOORS[4] |= {"check_command"}
FLOORS[3] |= {"run"}
FLOORS[2] |= {"check_options", "exchange", "ping", "lane", "conformance", "cases", "report"}
FLOORS[1] |= {"dial", "place", "client_tls", "secure_stream", "stream", "proxy_header"}
FLOORS[0] |= {"outcome", "pattern", "latency"}

SIDEWAYS = {
    # The live set and what lives in it meet in the names of connection.py.
    ("connections", "connection"),
    ("limits", "connection"),
    ("refusals", "connection"),
    # The live set has each connection looked at, and tells of those that are refused.
    ("connections", "limits"),
    ("connections", "refusals"),
    # What is remembered of connections that are gone, counted in histograms as the lag is.
    ("connections", "totals"),
    ("totals", "connection"),
    ("totals", "histogram"),
    ("lag", "histogram"),
    # A snapshot holds what the system says of the process, and samples of history.
    ("snapshot", "process"),
    ("history", "snapshot"),
    # The page's tables are tables.
    ("tables", "table"),
    # The site has listeners of its own.
    ("admin", "listener"),
    # A snapshot tells where the listeners are bound.
    ("observation", "listener"),
    # The parent of workers, and each of them, is the daemon, but for what makes it one.
    ("parent", "daemon"),
    ("worker", "daemon"),
    # A worker that cannot start ends the start, as a listener that cannot bind does.
    ("workers", "listener"),
    # What the operator typed is shown as carefully as what a peer sent.
    ("options", "sockets"),
    ("parameters", "sockets"),
    ("header", "sockets"),
    ("systemd", "sockets"),
    ("observers", "sockets"),
    ("connections", "sockets"),
    ("refusals", "sockets"),
    ("syslogger", "sockets"),
    # Lines go into a sink, and from there to a place; a file and syslogd are such places.
    ("observers", "sink"),
    ("sink", "backlog"),
    ("sink", "destination"),
    ("backlog", "destination"),
    ("logfile", "destination"),
    ("syslogger", "destination"),
    # What an option is, and what a good value for it is.
    ("options", "values"),
    ("parameters", "values"),
    ("options", "parameters"),
    # A factory makes protocols; what both ask of others is written down beside them.
    ("factory", "protocol"),
    ("factory", "surroundings"),
    ("protocol", "surroundings"),
    # A proxy is known by its address, as a client is.
    ("proxy", "admission"),
    # The engine: a reactor makes ports, they make transports, and those have a TLS half and
    # can be looked into.
    ("reactor", "port"),
    ("reactor", "transport"),
    ("reactor", "unix_transport"),
    ("port", "transport"),
    ("port", "unix_transport"),
    ("unix_transport", "transport"),
    ("unix_transport", "secure"),
    ("unix_transport", "secure_end"),
    ("transport", "secure"),
    ("transport", "secure_end"),
    ("transport", "inspection"),
    # What is handed over becomes a port, and so does what is bound at a path.
    ("inherited", "port"),
    ("endpoint", "port"),
    # The client: what is compared is named by its outcome; a connection is a stream, and
    # TLS is put around one; dialling is to connect, send a header and shake hands.
    ("pattern", "outcome"),
    ("place", "stream"),
    ("client_tls", "stream"),
    ("client_tls", "secure_stream"),
    # What a client shows is read and refused as what a server shows is.
    ("client_tls", "tls"),
    ("secure_stream", "stream"),
    ("dial", "stream"),
    ("dial", "place"),
    ("dial", "proxy_header"),
    # A run of messages goes over several lanes.
    ("ping", "lane"),
    # The suite is made of cases, and those of exchanges.
    ("conformance", "cases"),
    ("cases", "exchange"),
}

CLIENT = {
    *("check", "check_command", "run", "check_options", "exchange", "ping", "lane", "conformance"),
    *("cases", "report", "dial", "place", "client_tls", "secure_stream", "stream", "proxy_header"),
    *("outcome", "pattern", "latency"),
}


def modules():
    """
    Every module of echod but the package itself, by name.
    """
    return {path.stem: path for path in ROOT.glob("*.py") if path.stem != "__init__"}


def imports(source, names):
    """
    Which of these modules of echod a module imports, anywhere in it.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "echod" if node.level else node.module
            inside = f".{node.module}" if node.level and node.module else ""
            paths = [f"{base}{inside}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in paths:
            package, _, rest = path.partition(".")
            if package == "echod":
                found.add(rest.partition(".")[0])
    return found & names


def run(code):
    """
    Run Python code in a process of its own.

    @return: what it wrote to standard output.
    """
    environment = dict(os.environ, PYTHONPATH=str(ROOT.parent))
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    if finished.returncode:
        raise AssertionError(finished.stderr)
    return finished.stdout.split()


class FloorsTests(SynchronousTestCase):
    """
    Who may import whom.
    """

    def setUp(self):
        paths = modules()
        self.floor = {name: floor for floor, names in FLOORS.items() for name in names}
        self.edges = {
            (name, other)
            for name, path in paths.items()
            for other in imports(path.read_text(), set(paths))
        }

    def test_every_room_has_a_floor(self):
        """
        A new module is given its place before it is let in.
        """
        self.assertEqual(set(modules()) - set(self.floor), set())

    def test_down_only(self):
        """
        A module imports from lower floors, and sideways only where a reason is written down.
        """
        wrong = {
            (name, other)
            for name, other in self.edges - SIDEWAYS
            if self.floor.get(name, -1) <= self.floor.get(other, -1)
        }
        self.assertEqual(wrong, set())

    def test_the_daemon_goes_without_the_client(self):
        """
        No room of the daemon imports one of the client's, and of the daemon's the client
        imports only what knows no connection.
        """
        between = {
            (name, other) for name, other in self.edges if (name in CLIENT) != (other in CLIENT)
        }
        self.assertEqual({name for name, _ in between} - CLIENT, set())
        self.assertEqual(
            {other for _, other in between}, {"values", "sockets", "credentials", "tls"}
        )

    def test_no_circles(self):
        """
        No module imports itself, however long the way.
        """
        graph = TopologicalSorter()
        for name, other in self.edges:
            graph.add(name, other)
        graph.prepare()

    def test_service_alone_meets_all(self):
        """
        The imports that this test sees are those there are.
        """
        for edge in (
            ("daemon", "signals"),  # from echod import signals
            ("daemon", "listener"),  # from echod.listener import ListenerService
            ("connections", "connection"),
        ):
            self.assertIn(edge, self.edges)
        source = "import echod.a\nif x:\n from . import b\n from .c import d\nfrom echod import e"
        self.assertEqual(imports(source, set("abcdef")), set("abce"))


class ReactorTests(SynchronousTestCase):
    """
    Who installs a reactor: nobody, before the daemon is built.
    """

    def test_no_module_imports_the_reactor(self):
        """
        The user's choice of a reactor still counts after any module of echod is imported.
        """
        names = ", ".join(f"echod.{name}" for name in modules())
        loaded = run(f"import sys, {names}; print(*sys.modules)")
        self.assertIn("echod.service", loaded)
        self.assertNotIn("twisted.internet.reactor", loaded)

    def test_plugin_is_lazy(self):
        """
        The plugin, which twistd imports for every command, imports nothing of echod.
        """
        loaded = run("import sys, twisted.plugins.echod_plugin; print(*sys.modules)")
        self.assertIn("twisted.plugins.echod_plugin", loaded)
        self.assertEqual([name for name in loaded if name.split(".")[0] == "echod"], [])
        self.assertNotIn("twisted.internet.reactor", loaded)

    def test_options_are_asked_for(self):
        """
        Asking the plugin for its options imports the daemon, and still no reactor.
        """
        loaded = run(
            "import sys; from twisted.plugins.echod_plugin import echod; "
            "echod.options(); print(*sys.modules)"
        )
        self.assertIn("echod.service", loaded)
        self.assertNotIn("twisted.internet.reactor", loaded)
