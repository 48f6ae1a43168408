"""Web servers on 127.0.0.1: `tls_server.py DIRECTORY PLAIN PORT…`, the first without TLS, the others with it. They
make an authority of their own, `authority.pem` in the directory, and answer `/N` with so many bytes, one
request to a connection."""

import datetime
import ipaddress
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

directory = Path(sys.argv[1])
plain, *ports = [int(port) for port in sys.argv[2:]]


def certificate(name, key, issuer, issuer_key, extensions):
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=2))
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
authority = certificate(name("authority of the test"), root, name("authority of the test"), root, [
    (x509.BasicConstraints(ca=True, path_length=None), True), (usage, True),
    (x509.SubjectKeyIdentifier.from_public_key(root.public_key()), False)])
address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
own = certificate(name("server of the test"), key, name("authority of the test"), root, [(address, False)])
private = key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
(directory / "authority.pem").write_bytes(authority)
(directory / "server.pem").write_bytes(own + private)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(directory / "server.pem")


class Server(BaseHTTPRequestHandler):
    def do_GET(self):
        length = int(self.path[1:])
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(b"w" * length)

    def log_message(self, *_):
        pass


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


def serve(port, secure):
    server = Quiet(("127.0.0.1", port), Server)
    if secure:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()


for port in ports:
    serve(port, True)
serve(plain, False)
sys.stdin.read()
