-- Times are microseconds since 1970 in UTC. Byte strings that may be absent are NULL.
CREATE TABLE users (
	iss      TEXT NOT NULL,
	sub      TEXT NOT NULL,
	username TEXT UNIQUE,
	PRIMARY KEY (iss, sub)
);

CREATE TABLE functions (
	id         TEXT PRIMARY KEY,
	iss        TEXT NOT NULL,
	sub        TEXT NOT NULL,
	acct       BYTEA,
	name       TEXT NOT NULL,
	public     BOOLEAN NOT NULL,
	checksum   BYTEA NOT NULL,
	seq        BIGINT NOT NULL,
	size       BIGINT NOT NULL,
	stored     BIGINT NOT NULL,
	manifest   BYTEA NOT NULL,
	sig        BYTEA,
	sig_key    BYTEA,
	wrapped    BYTEA NOT NULL,
	kek        TEXT NOT NULL,
	blob_key   TEXT NOT NULL UNIQUE,
	created_at BIGINT NOT NULL,
	deleted_at BIGINT,
	FOREIGN KEY (iss, sub) REFERENCES users (iss, sub)
);

CREATE INDEX functions_by_owner ON functions (iss, sub, created_at);

CREATE INDEX functions_by_name ON functions (iss, sub, name, seq, created_at);

-- acct is empty for the key of (iss, sub) that users without an account have.
CREATE TABLE keys (
	iss        TEXT NOT NULL,
	sub        TEXT NOT NULL,
	acct       BYTEA NOT NULL,
	wrapped    BYTEA NOT NULL,
	kek        TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	PRIMARY KEY (iss, sub, acct),
	FOREIGN KEY (iss, sub) REFERENCES users (iss, sub)
);

CREATE TABLE meta (
	name  TEXT PRIMARY KEY,
	value BYTEA NOT NULL
);
