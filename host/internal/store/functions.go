package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// Function is what the host knows about a function: copies of what its
// manifest says, for listings and routing, and the sealed parts as they came.
type Function struct {
	ID        string
	Owner     wire.Subject
	Username  string // of the owner now; empty when no token ever named one
	Acct      []byte // nil: written for a user without an account
	Name      string
	Public    bool
	Checksum  []byte // SHA-256 of the zip
	Seq       uint64
	Size      uint64 // bytes of the zip, as the runtime said
	Stored    int64  // bytes of the body
	Manifest  []byte
	Sig       []byte
	Key       []byte
	Wrapped   []byte
	KEK       string
	CreatedAt time.Time

	blobKey string
}

// Head returns f in the form in which it travels before its body.
func (f *Function) Head() wire.StoredFunction {
	return wire.StoredFunction{
		ID: f.ID, Manifest: f.Manifest, Sig: f.Sig, Key: f.Key, Wrapped: f.Wrapped,
		KEK: f.KEK, Username: f.Username, Size: f.Size,
	}
}

// PutFunction stores a function: its body, read to EOF, then its row. It
// returns ErrInvalid when head contradicts its own manifest, ErrExists when the
// id is taken or was deleted, ErrTooLarge, ErrFull, or the body's read error.
func (s *Store) PutFunction(ctx context.Context, head wire.StoredFunction, body io.Reader) (*Function, error) {
	f, err := fromHead(head)
	if err != nil {
		return nil, err
	}
	if err := s.idFree(ctx, f.ID); err != nil {
		return nil, err
	}
	f.blobKey = newBlobKey()
	s.setWriting(f.blobKey, true)
	defer s.setWriting(f.blobKey, false)
	f.Stored, err = s.writeBody(ctx, f.blobKey, body)
	if err != nil {
		s.dropBody(f.blobKey)
		return nil, fmt.Errorf("storing body: %w", err)
	}
	f.CreatedAt = time.UnixMicro(s.now().UnixMicro()).UTC()
	err = s.inTx(ctx, func(tx *sql.Tx) error { return insertFunction(ctx, tx, f, head.Username) })
	if err != nil {
		s.dropBody(f.blobKey)
		return nil, fmt.Errorf("storing function: %w", err)
	}
	return f, nil
}

// fromHead takes from the manifest what the host keeps for itself.
func fromHead(h wire.StoredFunction) (*Function, error) {
	m, err := wire.ParseManifest(h.Manifest)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch {
	case h.ID != wire.FunctionID(h.Manifest):
		return nil, fmt.Errorf("%w: the id is not that of the manifest", ErrInvalid)
	case len(h.Wrapped) == 0 || len(h.Wrapped) > wire.MaxWrapped || h.KEK == "":
		return nil, fmt.Errorf("%w: function without wrapped key", ErrInvalid)
	case (len(h.Sig) == 0) != (m.Acct == nil) || (len(h.Sig) == 0) != (len(h.Key) == 0):
		return nil, fmt.Errorf("%w: account, signature and key go together", ErrInvalid)
	case m.Seq > math.MaxInt64 || h.Size > wire.MaxFunctionZip:
		return nil, fmt.Errorf("%w: sequence number or size out of range", ErrInvalid)
	}
	return &Function{
		ID: h.ID, Owner: m.Owner, Username: h.Username, Acct: m.Acct, Name: m.Name, Public: m.Access == wire.AccessPublic,
		Checksum: m.Checksum, Seq: m.Seq, Size: h.Size, Manifest: h.Manifest, Sig: h.Sig, Key: h.Key, Wrapped: h.Wrapped, KEK: h.KEK,
	}, nil
}

func (s *Store) idFree(ctx context.Context, id string) error {
	var n int
	if err := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM functions WHERE id = $1`, id).Scan(&n); err != nil {
		return classify(err)
	}
	if n > 0 {
		return ErrExists
	}
	return nil
}

func insertFunction(ctx context.Context, tx *sql.Tx, f *Function, username string) error {
	if err := putUser(ctx, tx, f.Owner, username); err != nil {
		return err
	}
	r, err := tx.ExecContext(ctx, `INSERT INTO functions (id, iss, sub, acct, name, public, checksum, seq, size, stored,
			manifest, sig, sig_key, wrapped, kek, blob_key, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT (id) DO NOTHING`,
		f.ID, f.Owner.Iss, f.Owner.Sub, f.Acct, f.Name, f.Public, f.Checksum, int64(f.Seq), int64(f.Size), f.Stored,
		f.Manifest, f.Sig, f.Key, f.Wrapped, f.KEK, f.blobKey, f.CreatedAt.UnixMicro())
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, ErrExists)
	}
	return nil
}

// dropBody removes a body that no row names. What it cannot remove, Sweep will.
func (s *Store) dropBody(key string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if ok, err := s.blobs.Bucket.Exists(ctx, key); err == nil && !ok {
		return
	}
	if err := s.blobs.Bucket.Delete(ctx, key); err != nil {
		s.log.Warn("a body is left for the next sweep", "key", key, "err", err)
	}
}

const functionColumns = `f.id, f.iss, f.sub, COALESCE(u.username, ''), f.acct, f.name, f.public, f.checksum, f.seq, f.size, f.stored,
	f.manifest, f.sig, f.sig_key, f.wrapped, f.kek, f.blob_key, f.created_at
	FROM functions f JOIN users u ON u.iss = f.iss AND u.sub = f.sub WHERE f.deleted_at IS NULL`

func scanFunction(scan func(...any) error) (*Function, error) {
	var f Function
	var seq, size, created int64
	err := scan(&f.ID, &f.Owner.Iss, &f.Owner.Sub, &f.Username, &f.Acct, &f.Name, &f.Public, &f.Checksum, &seq, &size, &f.Stored,
		&f.Manifest, &f.Sig, &f.Key, &f.Wrapped, &f.KEK, &f.blobKey, &created)
	if err != nil {
		return nil, classify(err)
	}
	f.Seq, f.Size, f.CreatedAt = uint64(seq), uint64(size), time.UnixMicro(created).UTC()
	return &f, nil
}

// Function returns the function with that id, or ErrNotFound.
func (s *Store) Function(ctx context.Context, id string) (*Function, error) {
	return scanFunction(s.db.QueryRowContext(ctx, `SELECT `+functionColumns+` AND f.id = $1`, id).Scan)
}

// FunctionByName returns the newest function of that name: the one with the
// highest sequence number, and among those the one stored last.
func (s *Store) FunctionByName(ctx context.Context, username, name string) (*Function, error) {
	return scanFunction(s.db.QueryRowContext(ctx, `SELECT `+functionColumns+` AND u.username = $1 AND f.name = $2
		ORDER BY f.seq DESC, f.created_at DESC, f.id DESC LIMIT 1`, username, name).Scan)
}

// Functions returns functions of one owner, newest first.
func (s *Store) Functions(ctx context.Context, owner wire.Subject, limit, offset int) ([]*Function, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+functionColumns+` AND f.iss = $1 AND f.sub = $2
		ORDER BY f.created_at DESC, f.id DESC LIMIT $3 OFFSET $4`, owner.Iss, owner.Sub, limit, offset)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []*Function
	for rows.Next() {
		f, err := scanFunction(rows.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, classify(rows.Err())
}

// Body opens the body of a function for reading; the caller closes it.
func (s *Store) Body(ctx context.Context, f *Function) (io.ReadCloser, error) {
	r, err := s.blobs.Bucket.NewReader(ctx, f.blobKey, nil)
	if err != nil {
		return nil, fmt.Errorf("reading body: %w", err)
	}
	return r, nil
}

// DeleteFunction removes a function of owner: what could open it first, then
// its body. Its id stays taken. ErrNotFound also when it is somebody else's.
func (s *Store) DeleteFunction(ctx context.Context, owner wire.Subject, id string) error {
	var key string
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT blob_key FROM functions
			WHERE id = $1 AND iss = $2 AND sub = $3 AND deleted_at IS NULL`, id, owner.Iss, owner.Sub).Scan(&key)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE functions SET deleted_at = $1, manifest = $2, sig = NULL, sig_key = NULL, wrapped = $2
			WHERE id = $3`, s.now().UnixMicro(), []byte{}, id)
		return err
	})
	if err != nil {
		return err
	}
	s.dropBody(key)
	return nil
}
