# See LICENSE for details.
"""
Whom to trust in TLS.
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from twisted.internet.ssl import Certificate, trustRootFromCertificates


def trustRoot(cafile: str) -> Any:
    """
    @param cafile: A PEM file of trusted authorities; empty for the system's.
    @return: What Twisted takes for C{trustRoot}; L{None} stands for the system's.
    @raise OSError: The file cannot be read.
    @raise ValueError: It holds no certificate.
    """
    if not cafile:
        return None
    with open(cafile, "rb") as pem:
        certificates = x509.load_pem_x509_certificates(pem.read())
    return trustRootFromCertificates(
        [Certificate.loadPEM(c.public_bytes(Encoding.PEM)) for c in certificates]
    )
