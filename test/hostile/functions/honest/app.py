"""What an honest neighbour does: it computes, keeps a file, and finds the world as it should be."""

import hashlib
import os
import random
import threading


def cape_handler(data: bytes) -> bytes:
    with open("note", "wb") as file:
        file.write(data)
    worker = threading.Thread(target=random.random)
    worker.start()
    worker.join()
    with open("note", "rb") as file:
        kept = file.read()
    os.remove("note")
    return hashlib.sha256(kept).hexdigest().encode()
