package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
)

// OpenFiles keeps bodies as files below dir, which it makes when there is none.
// A body is written beside its final place and renamed, so that no other file
// system and no directory for temporary files is involved.
func OpenFiles(dir string) (Blobs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Blobs{}, fmt.Errorf("opening blob directory: %w", err)
	}
	b, err := fileblob.OpenBucket(dir, &fileblob.Options{
		NoTempDir: true, DirFileMode: 0o700, Metadata: fileblob.MetadataDontWrite,
	})
	if err != nil {
		return Blobs{}, fmt.Errorf("opening blob directory: %w", err)
	}
	return Blobs{Bucket: b, Flush: func(key string) error {
		path := filepath.Join(dir, filepath.FromSlash(key))
		return errors.Join(syncPath(path), syncPath(filepath.Dir(path)), syncPath(dir))
	}}, nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// newBlobKey returns a name that no body had before: a body is never
// overwritten, so two writers of one function cannot mix.
func newBlobKey() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	name := hex.EncodeToString(b[:])
	return "fn/" + name[:2] + "/" + name
}

// writeBody copies body into the bucket under key and returns its size. On
// error nothing stays under key.
func (s *Store) writeBody(ctx context.Context, key string, body io.Reader) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.blobs.Bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return 0, classify(err)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(body, s.maxBody+1), make([]byte, 256<<10))
	if err == nil && n > s.maxBody {
		err = ErrTooLarge
	}
	if err != nil {
		cancel() // before Close: a closed writer publishes what it has
		_ = w.Close()
		return 0, classify(err)
	}
	if err := w.Close(); err != nil {
		return 0, classify(err)
	}
	if s.blobs.Flush != nil {
		if err := s.blobs.Flush(key); err != nil {
			return 0, classify(err)
		}
	}
	return n, nil
}

func (s *Store) setWriting(key string, on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if on {
		s.writing[key] = true
		return
	}
	delete(s.writing, key)
}

func (s *Store) isWriting(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writing[key]
}
