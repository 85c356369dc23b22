import base64
import hmac
import time


def verify(headers, body, secret, now=time.time):
    """
    @param headers: A mapping of names in lower case to text.
    @param body: The bytes as they came.
    @param secret: As bytes: what C{secret} in C{[webhook]} stands for.
    """
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    fresh = abs(now() - int(headers["webhook-timestamp"])) <= 300
    return fresh and any(
        hmac.compare_digest(f"v1,{wanted}", given)
        for given in headers["webhook-signature"].split()
    )
