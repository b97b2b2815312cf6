"""
Reading key pairs from files.
"""

import contextlib
import os
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from twisted.trial.unittest import SynchronousTestCase

from echod._util.errors import StartupError
from echod.tls.credentials import CredentialsError, read_authorities, read_key_pair, serial_text
from tests.support.certificates import ODD, make_certificate, odd_certificate


class CredentialsTestCase(SynchronousTestCase):
    """
    Writes files to read.
    """

    def file(self, *parts, mode=0o600):
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"".join(parts))
        os.chmod(path, mode)
        return path

    def assert_refused(self, kind, words, way_out, path, read, *paths):
        """
        The files are refused with one line that names the right file and ends with what to do.
        """
        error = self.assertRaises(CredentialsError, read, *paths)
        self.assertIsInstance(error, StartupError)
        self.assertEqual(error.kind, kind)
        self.assertIn(words, str(error))
        self.assertTrue(str(error).endswith("; " + way_out), error)
        self.assertIn(path, str(error))
        self.assertNotIn("\n", str(error))


class ReadTests(CredentialsTestCase):
    """
    Good files.
    """

    def test_key_in_its_own_file(self):
        """
        The key may be in a file of its own.
        """
        made = make_certificate()
        cert = self.file(made.cert_pem)
        read = read_key_pair(cert, self.file(made.key_pem))
        self.assertEqual((read.path, read.chain), (cert, (made.certificate,)))
        self.assertEqual(read.key.public_key(), made.key.public_key())

    def test_key_in_the_same_file(self):
        """
        The key may be in the certificate's file, before or after it.
        """
        made = make_certificate()
        for parts in ((made.cert_pem, made.key_pem), (made.key_pem, made.cert_pem)):
            self.assertEqual(read_key_pair(self.file(*parts), None).chain, (made.certificate,))

    def test_chain(self):
        """
        The whole chain in the file is read, in order.
        """
        root = make_certificate(["root"], authority=True)
        upper = make_certificate(["upper"], root, authority=True)
        leaf = make_certificate(["localhost"], upper)
        read = read_key_pair(self.file(leaf.chain), self.file(leaf.key_pem))
        self.assertEqual(read.chain, (leaf.certificate, upper.certificate))

    def test_description(self):
        """
        The names, the serial number and the dates are those of the certificate.
        """
        made = make_certificate(["a.example", "*.b.example", "192.0.2.1", "::1"], days=3)
        read = read_key_pair(self.file(made.cert_pem, made.key_pem), None)
        self.assertEqual(read.names, ("a.example", "*.b.example", "192.0.2.1", "::1"))
        self.assertEqual(int(read.serial, 16), made.certificate.serial_number)
        self.assertEqual(round((read.not_after - datetime.now(UTC)).total_seconds() / 86400), 3)

    def test_nameless(self):
        """
        A common name does not count as a name, since clients ignore it.
        """
        made = make_certificate([], common_name="localhost")
        read = read_key_pair(self.file(made.cert_pem, made.key_pem), None)
        self.assertEqual(read.names, ())

    def test_serial(self):
        """
        A serial number is written in whole bytes, as C{openssl} writes it.
        """
        shown = [serial_text(number) for number in (1, 0x10, 0xABC, 0xFFFFF)]
        self.assertEqual(shown, ["01", "10", "0ABC", "0FFFFF"])

    def test_exposed(self):
        """
        A key that others than its owner can read is noticed, in either file.
        """
        made = make_certificate()
        open_to_all = self.file(made.cert_pem, made.key_pem, mode=0o644)
        for mode, exposed in ((0o600, False), (0o400, False), (0o640, True), (0o604, True)):
            key = self.file(made.key_pem, mode=mode)
            read = read_key_pair(open_to_all, key)
            self.assertEqual(read.exposed, key if exposed else None)
        self.assertEqual(read_key_pair(open_to_all, None).exposed, open_to_all)

    def test_by_a_group(self):
        """
        A service that reads another user's key by its group needs the group's permission.
        """
        made = make_certificate()
        cert, other = self.file(made.cert_pem), os.geteuid() + 1
        self.patch(os, "geteuid", lambda: other)
        for mode, exposed in ((0o440, False), (0o640, False), (0o444, True)):
            key = self.file(made.key_pem, mode=mode)
            read = read_key_pair(cert, key)
            self.assertEqual((mode, read.exposed), (mode, key if exposed else None))

    def test_authorities(self):
        """
        A file may have several authorities in it.
        """
        one, other = (make_certificate([name], authority=True) for name in "ab")
        read = read_authorities(self.file(one.cert_pem, other.cert_pem))
        self.assertEqual(read, (one.certificate, other.certificate))


class RefusedTests(CredentialsTestCase):
    """
    Files that cannot be used.
    """

    def refused(self, kind, words, way_out, cert, key=None):
        path = cert if kind == "cert" or key is None else key
        self.assert_refused(kind, words, way_out, path, read_key_pair, cert, key)

    def test_key_of_another(self):
        """
        A key that belongs to another certificate, or not to the first one, is refused.
        """
        one, other = make_certificate(), make_certificate()
        says = ("does not belong to the first certificate", "give its own")
        self.refused("key", *says, self.file(one.cert_pem), self.file(other.key_pem))
        self.refused("cert", *says, self.file(other.cert_pem, one.cert_pem, one.key_pem))

    def test_encrypted_key(self):
        """
        An encrypted key is refused, since there is no one to type the password.
        """
        made = make_certificate()
        key = self.file(made.encrypted_key_pem(b"password"))
        says = ("key", "is encrypted", "store it decrypted, for its owner only")
        self.refused(*says, self.file(made.cert_pem), key)

    def test_missing(self):
        """
        A missing file is named.
        """
        there = self.file(make_certificate().cert_pem)
        says = ("No such file or directory", "give a file that can be read")
        self.refused("cert", *says, self.mktemp())
        self.refused("key", *says, there, self.mktemp())
        missing = self.mktemp()
        self.assert_refused("client-ca", *says, missing, read_authorities, missing)

    def test_unreadable(self):
        """
        A file that cannot be read is named.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.refused("cert", "Is a directory", "give a file that can be read", folder)

    def test_pipe(self):
        """
        A pipe, which a reload could not read again, is refused without waiting for it.
        """
        pipe = self.mktemp()
        os.mkfifo(pipe)
        self.refused("cert", "is not a regular file", "give one that is", pipe)

    def test_large(self):
        """
        A file that is too large is not read to its end.
        """
        path = self.file()
        with contextlib.closing(open(path, "r+b")) as file:
            file.truncate(1 << 40)
        self.refused("cert", "is larger than 1 MiB", "give a PEM file", path)

    def test_not_pem(self):
        """
        A file without PEM is named.
        """
        made = make_certificate()
        says = ("holds no PEM certificate", "give one that does")
        for junk in (b"", b"hello", os.urandom(100), made.key_pem, made.cert_pem[:200]):
            self.refused("cert", *says, self.file(junk))
            path = self.file(junk)
            self.assert_refused("client-ca", *says, path, read_authorities, path)
        says = ("key", "holds no PEM private key", "give one that does")
        for junk in (b"", b"hello", os.urandom(100), made.cert_pem, made.key_pem[:60]):
            self.refused(*says, self.file(made.cert_pem), self.file(junk))
        broken = self.file(made.cert_pem, made.key_pem[:60])
        self.refused("cert", *says[1:], broken)

    def test_no_key(self):
        """
        Without a file for the key, the file of the certificate is named that has none, and the
        option for the key.
        """
        cert = self.file(make_certificate().cert_pem)
        self.refused("cert", "holds no PEM private key", "add --tls-key FILE", cert)
        says = ("cert", "holds no PEM private key", "add --key FILE")
        self.assert_refused(*says, cert, read_key_pair, cert, None, "--key")

    def test_empty(self):
        """
        The error says that a file is empty.
        """
        made = make_certificate()
        empty = self.file()
        says = "it is empty", "give one that does"
        self.refused("cert", *says, empty)
        self.refused("key", *says, self.file(made.cert_pem), empty)

    def test_other_formats(self):
        """
        The error names the format of a file that is not PEM, and how to convert it.
        """
        made = make_certificate()
        cert = self.file(made.cert_pem)
        bundle = pkcs12.serialize_key_and_certificates(
            b"x", made.key, made.certificate, None, NoEncryption()
        )
        openssl = ("DER or PKCS 12", "convert it to PEM with openssl x509, pkey or pkcs12")
        der_key = made.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for content in (made.certificate.public_bytes(Encoding.DER), bundle):
            self.refused("cert", *openssl, self.file(content))
            path = self.file(content)
            self.assert_refused("client-ca", *openssl, path, read_authorities, path)
        self.refused("key", *openssl, cert, self.file(b"\x30\x82" + der_key))
        self.refused("key", *openssl, cert, self.file(der_key))
        for encoding in ("utf-16", "utf-16-be", "utf-16-le"):
            text = ("UTF-16 text", "save it as ASCII")
            self.refused("cert", *text, self.file(made.cert_pem.decode().encode(encoding)))
            self.refused("key", *text, cert, self.file(made.key_pem.decode().encode(encoding)))

    def test_dangling_link(self):
        """
        A dangling link is a missing file.
        """
        path = self.mktemp()
        os.symlink("nothing", path)
        says = ("No such file or directory", "give a file that can be read")
        self.refused("cert", *says, path)

    def test_changing(self):
        """
        A file that changes while it is read is refused, since the content may be mixed.
        """
        made = make_certificate()
        path = self.file(made.cert_pem, made.key_pem)
        fstat = os.fstat
        checked = []

        def change(descriptor):
            found = fstat(descriptor)
            checked.append(descriptor)
            if len(checked) == count:
                with open(path, "ab") as file:
                    file.write(b"more\n")
                os.utime(path, ns=(0, 0))
            return found

        self.patch(os, "fstat", change)
        count = 1
        says = ("changes while it is read", "write another file and rename it to this name")
        self.refused("cert", *says, path)
        count = 0
        read_key_pair(path, None)

    def test_malformed(self):
        """
        Any error of the parser is one line.
        """
        for what in ODD:
            made = make_certificate()
            path = self.file(odd_certificate(made, what), made.key_pem)
            if what == "bit string as common name":
                self.assertEqual(read_key_pair(path, None).names, ("localhost",))
            else:
                self.refused("cert", "malformed", "give another", path)

    def test_malformed_names(self):
        """
        A certificate whose names cannot be parsed is refused.
        """
        made = make_certificate([], common_name="localhost")
        oid = x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME
        odd = (
            x509.CertificateBuilder()
            .subject_name(made.certificate.subject)
            .issuer_name(made.certificate.subject)
            .public_key(made.key.public_key())
            .serial_number(1)
            .not_valid_before(made.certificate.not_valid_before_utc)
            .not_valid_after(made.certificate.not_valid_after_utc)
            .add_extension(x509.UnrecognizedExtension(oid, b"\x30\x03\x82\x01"), critical=False)
            .sign(made.key, hashes.SHA256())
        )
        path = self.file(odd.public_bytes(Encoding.PEM), made.key_pem)
        self.refused("cert", "is malformed or of an unknown kind", "give another", path)
