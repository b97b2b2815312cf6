"""
OpenSSL's read and write, between two connections.
"""

import contextlib
import gc
import os
import socket
import weakref
from types import FunctionType

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from echod.tls._openssl import (
    RECORD_BYTES,
    choose_protocol,
    has_peer_finished,
    is_resumed,
    memory_of,
    read_and_write,
    reason_text,
    reasons,
    record_relay,
    set_groups,
    set_protocols,
    stop_retrying,
    verify_error,
)
from tests.support.certificates import make_certificate
from tests.support.handshakes import shake_hands

SERVER = make_certificate()


class OtherVersion:
    """
    A connection of a pyOpenSSL that has renamed its private names.
    """

    def recv(self, size):
        return b"-" * size

    def send(self, data):
        return len(data)

    def get_peer_finished(self):
        return b"-"


class ReadAndWriteTests(SynchronousTestCase):
    """
    The functions behave as pyOpenSSL's methods, at lower cost.
    """

    def setUp(self):
        ours, theirs = socket.socketpair()
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate(SERVER.certificate)
        context.use_privatekey(SERVER.key)
        self.server = SSL.Connection(context, ours)
        self.client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), theirs)
        for end in (ours, theirs):
            end.setblocking(False)
            self.addCleanup(end.close)
        self.server.set_accept_state()
        self.client.set_connect_state()
        for connection in (self.client, self.server, self.client, self.server):
            with contextlib.suppress(SSL.WantReadError):
                connection.do_handshake()
        self.recv, self.send = read_and_write(self.server)

    def test_direct(self):
        """
        With the installed pyOpenSSL, its methods are not called.
        """
        for call in (self.recv, self.send):
            self.assertIs(type(call), FunctionType)

    def test_no_error(self):
        """
        After a call that succeeds, OpenSSL is not asked for an error.
        """
        asked = []
        self.server._raise_ssl_error = lambda *result: asked.append(result)
        recv, send = read_and_write(self.server)
        self.assertEqual(send(b"there"), 5)
        self.client.send(b"back")
        self.assertEqual((self.client.recv(9), recv(), asked), (b"there", b"back", []))

    def test_other_version(self):
        """
        With a pyOpenSSL without these private names, its methods are used.
        """
        recv, send = read_and_write(OtherVersion())
        self.assertEqual(recv(), b"-" * RECORD_BYTES)
        self.assertEqual(send(b"data"), 4)

    def test_receive(self):
        """
        A record comes whole, and two come one after the other, without changing each other.
        """
        first, second = os.urandom(RECORD_BYTES), os.urandom(3)
        self.client.send(first)
        self.client.send(second)
        received = [self.recv(), self.recv()]
        self.assertEqual(received, [first, second])
        self.assertEqual(self.server.pending(), 0)

    def test_send(self):
        """
        Bytes and memoryviews are sent.
        """
        data = os.urandom(1000)
        for sent in (data, memoryview(data)[10:]):
            self.assertEqual(self.send(sent), len(sent))
            self.assertEqual(self.client.recv(RECORD_BYTES), bytes(sent))

    def test_blocked(self):
        """
        When the socket takes no more, C{WantWriteError} is raised, as by pyOpenSSL.
        """
        with self.assertRaises(SSL.WantWriteError):
            for _ in range(10000):
                self.send(bytes(RECORD_BYTES))

    def test_nothing_to_receive(self):
        """
        When nothing has come, C{WantReadError} is raised, as by pyOpenSSL.
        """
        self.assertRaises(SSL.WantReadError, self.recv)

    def test_close_notify(self):
        """
        After a close_notify, C{ZeroReturnError} is raised, and sending goes on.
        """
        self.client.shutdown()
        self.assertRaises(SSL.ZeroReturnError, self.recv)
        self.assertEqual(self.send(b"data"), 4)
        self.assertEqual(self.client.recv(10), b"data")

    def test_truncation(self):
        """
        An end without a close_notify raises C{SysCallError}.
        """
        self.client.sock_shutdown(socket.SHUT_RDWR)
        self.assertRaises(SSL.SysCallError, self.recv)

    def test_not_tls(self):
        """
        Bytes that are not TLS raise an C{Error} that says so.
        """
        os.write(self.client.fileno(), b"GET / HTTP/1.1\r\n\r\n")
        error = self.assertRaises(SSL.Error, self.recv)
        self.assertIn("record", str(error))


class SettingsTests(SynchronousTestCase):
    """
    Settings and queries for which pyOpenSSL has no methods.
    """

    def setUp(self):
        self.context = SSL.Context(SSL.TLS_METHOD)

    def test_groups(self):
        """
        Groups that OpenSSL lacks are left out, and leave no error for the next call.
        """
        self.assertEqual(set_groups(self.context, ["X25519", "P-256"]), ("X25519", "P-256"))
        known = set_groups(self.context, ["nosuch", "X25519", "other", "P-256"])
        self.assertEqual(known, ("X25519", "P-256"))
        self.context.set_cipher_list(b"DEFAULT")

    def test_without_groups(self):
        """
        If OpenSSL has none of them, or they cannot be set, its defaults stay.
        """
        self.assertEqual(set_groups(self.context, ["nosuch"]), ())
        self.assertEqual(set_groups(object(), ["X25519"]), ())

    def test_queries(self):
        """
        A new connection is not resumed, and has no error.
        """
        connection = SSL.Connection(self.context, None)
        self.assertEqual((is_resumed(connection), verify_error(connection)), (False, None))
        self.assertFalse(has_peer_finished(connection))

    def test_no_queries(self):
        """
        With a pyOpenSSL without these private names, its methods are used where there are any, and
        nothing else changes.
        """
        other = OtherVersion()
        stop_retrying(other)
        self.assertEqual((is_resumed(other), verify_error(other)), (None, None))
        self.assertIsNone(memory_of(other))
        self.assertIsNone(record_relay(other, 8))
        self.assertTrue(has_peer_finished(other))

    def test_reasons(self):
        """
        OpenSSL's reasons are the last part of each entry in its queue.
        """
        queue = [("SSL routines", "", "bad thing"), ("", "", ""), ("SSL routines", "", "worse")]
        self.assertEqual(reason_text(SSL.Error(queue)), "bad thing, worse")
        self.assertEqual(reason_text(SSL.SysCallError(104, "ECONNRESET")), "104, ECONNRESET")
        self.assertEqual(reason_text(SSL.Error()), "no reason given")
        self.assertEqual(reasons(SSL.Error(queue)), ["bad thing", "worse"])


class ProtocolsTests(SynchronousTestCase):
    """
    ALPN.
    """

    def test_order(self):
        """
        Our order decides, wherever a protocol stands in the client's list; without one in common
        there is no choice.
        """
        for theirs, found in (
            (b"\2h2\4echo", (1, 2)),
            (b"\4echo\2h2", (6, 2)),
            (b"\4echo", (1, 4)),
            (b"\5echos\3ech\4xcho", None),
            (b"", None),
        ):
            self.assertEqual(choose_protocol(theirs, (b"h2", b"echo")), found)

    def test_cut_list(self):
        """
        A name that is cut off is not taken for a shorter one.
        """
        self.assertIsNone(choose_protocol(b"\1x\3h2", (b"h2",)))

    def negotiate(self, offered, ours=(b"h2", b"echo")):
        """
        Let a server and a client choose a protocol.
        """
        server, client = SSL.Context(SSL.TLS_METHOD), SSL.Context(SSL.TLS_METHOD)
        server.use_certificate(SERVER.certificate)
        server.use_privatekey(SERVER.key)
        set_protocols(server, ours)
        client.set_alpn_protos(offered)
        return shake_hands(server, client)

    def test_long_lists(self):
        """
        Of a list of thousands only the first dozens are read.
        """
        many = [b"a"] * 8000
        negotiate = self.negotiate([b"echo", *many])
        self.assertEqual(negotiate.client.get_alpn_proto_negotiated(), b"echo")
        self.assertIn("no application protocol", str(self.negotiate([*many, b"echo"]).server_error))

    def test_callback_goes_with_the_context(self):
        """
        The callback lives as long as its context, and no longer.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        set_protocols(context, (b"h2",))
        callback = weakref.ref(context._alpn_select_callback)
        self.assertIsNotNone(callback())
        del context
        gc.collect()
        self.assertIsNone(callback())

    def test_other_version(self):
        """
        With a pyOpenSSL without these private names, its own callback is used.
        """

        class Context:
            def set_alpn_select_callback(self, callback):
                self.choose = callback

        context = Context()
        set_protocols(context, (b"h2", b"echo"))
        self.assertEqual(context.choose(None, [b"x", b"echo"]), b"echo")
        error = self.assertRaises(SSL.Error, context.choose, None, [b"x"])
        self.assertEqual(reason_text(error), "no application protocol")
