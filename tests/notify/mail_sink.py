"""A real mail server that keeps what it takes: one JSON object a line in a file.

Words: PORT FILE [tls|starttls CERTIFICATE KEY] [USER PASSWORD]. Mail to an address that begins with "nobody" is
refused for good, to one that begins with "later" for now. Says "ready" when it listens.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Keep:
    def __init__(self, file, tls):
        self.file = file
        # From the first byte on; a session knows only of what came after STARTTLS.
        self.tls = tls

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 no such mailbox"
        if address.startswith("later"):
            return "451 4.3.0 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        kept = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "tls": self.tls or session.ssl is not None,
            "user": session.auth_data.login.decode() if session.auth_data else None,
            "data": envelope.content.decode("utf-8", "replace"),
        }
        with open(self.file, "a") as file:
            file.write(json.dumps(kept) + "\n")
        return "250 OK"


def main():
    port, file, *words = sys.argv[1:]
    kind, context = "none", None
    if words and words[0] in ("tls", "starttls"):
        kind, certificate, key, *words = words
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    options = {}
    if words:
        user, password = (word.encode() for word in words)

        def signs_in(server, session, envelope, mechanism, data):
            right = (data.login, data.password) == (user, password)
            return AuthResult(success=right, handled=False, auth_data=data)

        options = {"authenticator": signs_in, "auth_required": True, "auth_require_tls": kind == "starttls"}

    starttls = {"tls_context": context, "require_starttls": True} if kind == "starttls" else {}

    async def serve():
        loop = asyncio.get_running_loop()
        made = lambda: SMTP(Keep(file, kind == "tls"), hostname="sink.invalid", loop=loop, **starttls, **options)
        server = await loop.create_server(made, "127.0.0.1", int(port), ssl=context if kind == "tls" else None)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(serve())


main()
