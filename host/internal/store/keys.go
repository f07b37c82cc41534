package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// Key returns the wrapped Cape Key of a user; acct is nil for the key that
// users without an account have. ErrNotFound when there is none.
func (s *Store) Key(ctx context.Context, owner wire.Subject, acct []byte) (wire.StoredKey, error) {
	return key(ctx, s.db, owner, acct)
}

func key(ctx context.Context, q queryer, owner wire.Subject, acct []byte) (wire.StoredKey, error) {
	k := wire.StoredKey{Owner: owner, Acct: acct}
	err := q.QueryRowContext(ctx, `SELECT k.wrapped, k.kek, COALESCE(u.username, '')
		FROM keys k JOIN users u ON u.iss = k.iss AND u.sub = k.sub
		WHERE k.iss = $1 AND k.sub = $2 AND k.acct = $3`, owner.Iss, owner.Sub, notNil(acct)).Scan(&k.Wrapped, &k.KEK, &k.Username)
	return k, classify(err)
}

// KeyOfUser returns the Cape Key, without account, of the user with that name.
func (s *Store) KeyOfUser(ctx context.Context, username string) (wire.StoredKey, error) {
	u, err := subjectOf(ctx, s.db, username)
	if err != nil {
		return wire.StoredKey{}, err
	}
	return key(ctx, s.db, u, nil)
}

// PutKey stores k unless its owner has a key already, and returns the key that
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
			ON CONFLICT (iss, sub, acct) DO NOTHING`, k.Owner.Iss, k.Owner.Sub, notNil(k.Acct), k.Wrapped, k.KEK, s.now().UnixMicro())
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
