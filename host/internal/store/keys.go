package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// Key returns the wrapped Cape Key of an account, or with acct nil that of owner, who has
// none. ErrNotFound when there is none.
func (s *Store) Key(ctx context.Context, owner wire.Subject, acct []byte) (wire.StoredKey, error) {
	return key(ctx, s.db, owner, acct)
}

func key(ctx context.Context, q queryer, owner wire.Subject, acct []byte) (wire.StoredKey, error) {
	const columns = `SELECT k.iss, k.sub, k.wrapped, k.kek, COALESCE(u.username, '')
		FROM keys k JOIN users u ON u.iss = k.iss AND u.sub = k.sub WHERE k.acct = $1`
	k := wire.StoredKey{Acct: acct}
	row := q.QueryRowContext(ctx, columns, notNil(acct))
	if acct == nil {
		row = q.QueryRowContext(ctx, columns+` AND k.iss = $2 AND k.sub = $3`, []byte{}, owner.Iss, owner.Sub)
	}
	return k, classify(row.Scan(&k.Owner.Iss, &k.Owner.Sub, &k.Wrapped, &k.KEK, &k.Username))
}

// KeyOfUser returns the Cape Key of the user with that name: the one without an account, or
// with account set the newest of an account, if there is any.
func (s *Store) KeyOfUser(ctx context.Context, username string, account bool) (wire.StoredKey, error) {
	u, err := subjectOf(ctx, s.db, username)
	if err != nil {
		return wire.StoredKey{}, err
	}
	var acct []byte
	if account {
		err = s.db.QueryRowContext(ctx, `SELECT acct FROM keys WHERE iss = $1 AND sub = $2 AND length(acct) > 0
			ORDER BY created_at DESC, acct LIMIT 1`, u.Iss, u.Sub).Scan(&acct)
		if err = classify(err); err != nil && !errors.Is(err, ErrNotFound) {
			return wire.StoredKey{}, err
		}
	}
	return key(ctx, s.db, u, acct)
}

// PutKey stores k unless its account, or without one its owner, has a key already, and returns the key that
// counts: the first one ever stored. The bool tells whether that is k.
func (s *Store) PutKey(ctx context.Context, k wire.StoredKey) (wire.StoredKey, bool, error) {
	if len(k.Wrapped) == 0 || len(k.Wrapped) > wire.MaxWrapped || k.KEK == "" || (k.Acct != nil && len(k.Acct) != 32) {
		return wire.StoredKey{}, false, fmt.Errorf("%w: key without ciphertext, KEK or proper account", ErrInvalid)
	}
	var first wire.StoredKey
	var created bool
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		if err := putUser(ctx, tx, k.Owner, k.Username); err != nil {
			return err
		}
		r, err := tx.ExecContext(ctx, `INSERT INTO keys (iss, sub, acct, wrapped, kek, created_at) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT DO NOTHING`, k.Owner.Iss, k.Owner.Sub, notNil(k.Acct), k.Wrapped, k.KEK, s.now().UnixMicro())
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		if err != nil {
			return err
		}
		created = n == 1
		first, err = key(ctx, tx, k.Owner, k.Acct)
		return err
	})
	return first, created, err
}

// notNil keeps NULL out of columns where a missing value is an empty one.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
