package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// A bucket and its database carry the same random mark, so that neither is taken for another's.
const (
	markKey  = "store"
	markName = "store"
	markSize = 32 // hexadecimal digits
)

// Sweep removes bodies that no row names and that were last changed before
// the given time; zero means any time, which is right for the only process on
// a store. Bodies that this process is writing are left alone. It returns how
// many it removed. Where the bucket is not known to be this database's it
// removes nothing, and logs that: with another database, or a new one in the
// place of one that is gone, every body there is would be left over.
func (s *Store) Sweep(ctx context.Context, before time.Time) (int, error) {
	if ours, err := s.owns(ctx); err != nil || !ours {
		return 0, err
	}
	removed := 0
	for it := s.blobs.Bucket.List(nil); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err != nil {
			return removed, fmt.Errorf("sweeping: %w", err)
		}
		if object.IsDir || object.Key == markKey || !before.IsZero() && !object.ModTime.Before(before) || s.isWriting(unfinished(object.Key)) {
			continue
		}
		// Asked after isWriting: a writer leaves that set only when its row is there.
		named, err := s.bodyNamed(ctx, object.Key)
		if err != nil {
			return removed, fmt.Errorf("sweeping: %w", err)
		}
		if named {
			continue
		}
		if err := s.blobs.Bucket.Delete(ctx, object.Key); err != nil {
			return removed, fmt.Errorf("sweeping: %w", err)
		}
		removed++
	}
}

// unfinished returns the key of the body that an object belongs to: a file
// that is still being written has a suffix after the first dot.
func unfinished(key string) string {
	for i := range len(key) {
		if key[i] == '.' {
			return key[:i]
		}
	}
	return key
}

func (s *Store) bodyNamed(ctx context.Context, key string) (bool, error) {
	var n int
	err := s.db.QueryRowContext(ctx, `SELECT COUNT(*) FROM functions WHERE blob_key = $1 AND deleted_at IS NULL`, key).Scan(&n)
	return n > 0, classify(err)
}

// owns tells whether the bucket is this database's: both carry the same mark.
// A bucket without one gets it when it is empty, or the database names a body in it.
func (s *Store) owns(ctx context.Context) (bool, error) {
	mark, err := s.readMark(ctx)
	if err != nil {
		return false, fmt.Errorf("sweeping: %w", err)
	}
	meta, err := s.Meta(ctx, markName)
	if err != nil {
		return false, fmt.Errorf("sweeping: %w", err)
	}
	if mark != "" {
		if mark == string(meta[markName]) {
			return true, nil
		}
		s.log.Warn("the bodies belong to another database: nothing that is left over is removed", "hint", "see Backups in docs/operations.md")
		return false, nil
	}
	bodies, named, err := s.anyNamed(ctx)
	if err != nil {
		return false, fmt.Errorf("sweeping: %w", err)
	}
	if bodies && !named {
		s.log.Warn("there are bodies, and the database knows none of them: nothing that is left over is removed", "hint", "see that the database is the right one; see Backups in docs/operations.md")
		return false, nil
	}
	return true, s.setMark(ctx)
}

// readMark returns the bucket's mark, empty when it has none.
func (s *Store) readMark(ctx context.Context) (string, error) {
	r, err := s.blobs.Bucket.NewReader(ctx, markKey, nil)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the mark: %w", err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, markSize))
	if err != nil {
		return "", fmt.Errorf("reading the mark: %w", err)
	}
	if len(text) == 0 { // a mark nevertheless, and nobody's
		return "-", nil
	}
	return string(text), nil
}

// setMark marks the database, unless it is, and the bucket.
func (s *Store) setMark(ctx context.Context) error {
	var b [markSize / 2]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	if _, err := s.AddMeta(ctx, map[string][]byte{markName: []byte(hex.EncodeToString(b[:]))}); err != nil {
		return fmt.Errorf("marking the database: %w", err)
	}
	meta, err := s.Meta(ctx, markName) // another process may have been first
	if err != nil {
		return fmt.Errorf("marking the bucket: %w", err)
	}
	if err := s.blobs.Bucket.WriteAll(ctx, markKey, meta[markName], &blob.WriterOptions{ContentType: "text/plain"}); err != nil {
		return fmt.Errorf("marking the bucket: %w", err)
	}
	return nil
}

// anyNamed tells whether there are bodies, and whether the database names one of them.
func (s *Store) anyNamed(ctx context.Context) (bodies, named bool, err error) {
	for it := s.blobs.Bucket.List(nil); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return bodies, false, nil
		}
		if err != nil {
			return bodies, false, err
		}
		if object.IsDir {
			continue
		}
		bodies = true
		if named, err := s.bodyNamed(ctx, object.Key); err != nil || named {
			return bodies, named, err
		}
	}
}
