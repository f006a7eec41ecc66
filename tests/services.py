"""Are the services there? `python -m tests.services DATABASE_URL BROKER_URL...` says which is not,
in one sentence, and exits 1."""

import sys

import psycopg
from kombu import Connection


def missing(url: str) -> str | None:
    """None when the service answers, else the reason."""
    try:
        if url.startswith("postgres"):
            psycopg.connect(url, connect_timeout=3).close()
        else:
            with Connection(url, connect_timeout=3) as connection:
                connection.ensure_connection(max_retries=1)
                connection.default_channel.close()
    except Exception as error:  # each driver has its own
        return str(error).splitlines()[0] if str(error) else type(error).__name__
    return None


if __name__ == "__main__":
    reasons = {url: missing(url) for url in sys.argv[1:]}
    for url, reason in reasons.items():
        if reason:
            print(f"Nothing usable at {url}: start the service or name another. ({reason})")
    sys.exit(any(reasons.values()))
