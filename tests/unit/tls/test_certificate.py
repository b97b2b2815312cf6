"""
Parsing certificates, good ones and malformed ones.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.tls.certificate import (
    MAX_REASON_CHARACTERS,
    MalformedCertificateError,
    load_chain,
    names,
    peer_certificate,
    subject_text,
    validity,
)
from tests.support.certificates import ODD, make_certificate, odd_certificate


class CertificateTests(SynchronousTestCase):
    """
    Certificates in PEM.
    """

    def test_good(self):
        """
        A good certificate has its names, its subject and its dates.
        """
        made = make_certificate(["a.example", "192.0.2.1"], common_name="a\n")
        (read,) = load_chain(made.cert_pem)
        self.assertEqual(names(read), ("a.example", "192.0.2.1"))
        self.assertEqual(subject_text(read), r"CN=a\n")
        begin, end = validity(read)
        self.assertEqual(begin, made.certificate.not_valid_before_utc)
        self.assertEqual(end, made.certificate.not_valid_after_utc)

    def test_nameless(self):
        """
        A certificate without subject alternative names has no names.
        """
        self.assertEqual(names(make_certificate([], common_name="a").certificate), ())

    def test_malformed(self):
        """
        Any part that cannot be parsed raises one exception, or is C{malformed}.
        """
        for what in ODD:
            pem = odd_certificate(make_certificate(), what)
            try:
                (read,) = load_chain(pem)
                found = names(read)
            except MalformedCertificateError as error:
                self.assertNotEqual(str(error), "")
                self.assertLessEqual(len(str(error)), MAX_REASON_CHARACTERS)
                self.assertNotEqual(what, "bit string as common name")
            else:
                self.assertEqual(what, "bit string as common name")
                self.assertEqual((found, subject_text(read)), (("localhost",), "malformed"))

    def test_none(self):
        """
        A file without a certificate raises the same exception.
        """
        for junk in (b"", b"junk", bytes(100)):
            self.assertRaises(MalformedCertificateError, load_chain, junk)

    def test_no_text(self):
        """
        An error without a text is named by its class.
        """

        class Peer:
            def get_peer_certificate(self, *, as_cryptography):
                raise LookupError

        error = self.assertRaises(MalformedCertificateError, peer_certificate, Peer())
        self.assertEqual(str(error), "LookupError")
