-- An account has one key, whichever user of it came first.
CREATE UNIQUE INDEX keys_by_account ON keys (acct) WHERE length(acct) > 0;
