"""Says whether a number is prime, without the server learning which number it was."""

from math import isqrt


def is_prime(n: int) -> bool:
    if n < 2:
        return False
    return all(n % d for d in range(2, isqrt(n) + 1))


def cape_handler(data: bytes) -> str:
    n = int(data)
    return f"{n} is prime" if is_prime(n) else f"{n} is NOT prime"
