"""What a user of the published pycape does, against the platform named in the environment.

Only the attestation root differs from production: pycape fetches AWS's, this platform has its own.
"""

import asyncio
import json
import os
import sys

import pycape
from pycape import _attestation


def root() -> bytes:
    with open(os.environ["CAPE_ROOT_CERT"], "rb") as f:
        return f.read()


_attestation.download_root_cert = root


def refused(kind: type, what: str, call) -> None:
    """The call must raise an exception of a kind that says what."""
    try:
        got = call()
    except kind as e:
        assert what in str(e), (what, str(e))
        return
    raise AssertionError(f"nothing was raised: {got!r}")


def main() -> None:
    want = json.load(sys.stdin)
    cape = pycape.Cape(url=os.environ["CAPE_ENCLAVE_HOST"])
    token = cape.token(want["token"])
    functions = ("tally", "mean", "vault", "old")
    tally, mean, vault, old = (cape.function(want[name]["id"], checksum=want[name]["checksum"]) for name in functions)

    # Several inputs of one connection reach one process; a new connection starts anew.
    cape.connect(tally, token, pcrs=want["pcrs"])
    assert [cape.invoke(b"x") for _ in range(3)] == [b"1 x", b"2 x", b"3 x"]
    cape.close()
    assert cape.run("dev/tally", token, b"y") == b"1 y"
    with cape.function_context(tally, token):
        assert cape.invoke(b"z") == b"1 z"
    assert cape.run(tally, token, b"") == b"1 "
    data = bytes(range(256)) * 8192
    assert cape.run(tally, token, data) == b"1 " + data

    # serdio, with positional and keyword arguments.
    assert cape.run(mean, token, [1, 2, 3, 4], use_serdio=True) == 2.5
    with cape.function_context(mean, token):
        assert cape.invoke((5, 6, 7, 8), use_serdio=True) == 6.5
        assert cape.invoke([1, 2], use_serdio=True) == 1.5

    # An input encrypted beforehand arrives decrypted; cape_encrypt works inside functions. One of an account encrypts to
    # itself, one that a client of v1 deployed to whatever its owner deploys.
    sealed = cape.encrypt(b"q", username="dev")
    assert sealed.startswith(b"cape:")
    assert cape.run(tally, token, sealed) == b"1 q"
    for function in vault, old:
        again = cape.run(function, token, b"keep this")
        assert again.startswith(b"cape:"), again[:20]
        assert cape.run(function, token, json.dumps([sealed.decode(), again.decode()]).encode()) == b"[b'q', b'keep this']"
        if function is old:
            assert cape.run(tally, token, again) == b"1 keep this"
        else:
            refused(Exception, "", lambda: cape.run(tally, token, again))
    assert cape.key(username="dev") == cape.key(username="dev")

    # What must fail fails, and the next request works.
    refused(RuntimeError, "checksum", lambda: cape.run(cape.function(want["tally"]["id"], checksum="0" * 64), token, b"x"))
    refused(Exception, "", lambda: cape.run(tally, token, b"x", pcrs={"0": ["0" * 96]}))
    refused(Exception, "", lambda: cape.run(tally, cape.token("not.a.token"), b"x"))
    refused(Exception, "", lambda: cape.run("dev/nothing", token, b"x"))
    refused(Exception, "ValueError", lambda: cape.run(tally, token, b"raise"))
    refused(Exception, "", lambda: cape.key(username="nobody"))
    assert cape.run(tally, token, b"x") == b"1 x"

    # The asynchronous face.
    async def several() -> list:
        async with cape.function_context(tally, token):
            return [await cape.invoke(b"a"), await cape.invoke(b"b")]

    assert asyncio.run(several()) == [b"1 a", b"2 b"]
    print("done")


main()
