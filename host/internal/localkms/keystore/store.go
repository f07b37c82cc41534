package keystore

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

const (
	masterFile = "master.key"
	masterSize = 32
	recordsDir = "records"
	tempPrefix = ".tmp-"
	label      = "record 1"
)

var namePattern = regexp.MustCompile(`^[a-z0-9-]{1,128}$`)

// Store is an open directory. It is safe for concurrent use.
type Store struct {
	dir    string
	master []byte
	lock   *os.File
	mu     sync.Mutex // one writer at a time
}

// Open makes or reads dir and locks it until Close. Errors wrap ErrInUse,
// ErrPermissions or ErrCorrupt, or are those of the file system.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(filepath.Join(dir, recordsDir), 0o700); err != nil {
		return nil, fmt.Errorf("making key directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking key directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("%w: %s", ErrInUse, dir)
	}
	s := &Store{dir: dir, lock: lock}
	if err := s.prepare(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return s, nil
}

// prepare removes what an interrupted write left behind and reads or makes the
// master key.
func (s *Store) prepare() error {
	names, err := s.files()
	if err != nil {
		return err
	}
	records := 0
	for _, n := range names {
		if !strings.HasPrefix(n, tempPrefix) {
			records++
		} else if err := os.Remove(filepath.Join(s.dir, recordsDir, n)); err != nil {
			return fmt.Errorf("removing unfinished record: %w", err)
		}
	}
	path := filepath.Join(s.dir, masterFile)
	s.master, err = readMaster(path)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if records > 0 {
		// A new master key would turn a misplaced file into lost keys.
		return fmt.Errorf("%w: there are records, but %s is missing; put it back", ErrCorrupt, path)
	}
	s.master = make([]byte, masterSize)
	if _, err := io.ReadFull(rand.Reader, s.master); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	if err := writeFile(s.dir, masterFile, s.master); err != nil {
		return fmt.Errorf("writing master key: %w", err)
	}
	return nil
}

func readMaster(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading master key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading master key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o; make it 0600", ErrPermissions, path, info.Mode().Perm())
	}
	key, err := io.ReadAll(io.LimitReader(f, masterSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading master key: %w", err)
	}
	if len(key) != masterSize {
		return nil, fmt.Errorf("%w: %s does not have %d bytes", ErrCorrupt, path, masterSize)
	}
	return key, nil
}

func (s *Store) files() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, recordsDir))
	if err != nil {
		return nil, fmt.Errorf("listing records: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Key derives a key of 32 bytes for a use of its own from the master key.
func (s *Store) Key(use string) ([]byte, error) {
	return hkdf.Key(sha256.New, s.master, nil, "cape localkms use "+use, 32)
}

// List returns the names of records that begin with prefix, sorted.
func (s *Store) List(prefix string) ([]string, error) {
	names, err := s.files()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, prefix) && namePattern.MatchString(n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// Get opens a record. Errors wrap ErrNotFound, ErrCorrupt or ErrName.
func (s *Store) Get(name string) ([]byte, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("%w: %q", ErrName, name)
	}
	f, err := os.Open(filepath.Join(s.dir, recordsDir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading record: %w", err)
	}
	defer f.Close()
	sealed, err := io.ReadAll(io.LimitReader(f, MaxRecord+SealOverhead+1))
	if err != nil {
		return nil, fmt.Errorf("reading record: %w", err)
	}
	if len(sealed) > MaxRecord+SealOverhead {
		return nil, fmt.Errorf("%w: %s is too large", ErrCorrupt, f.Name())
	}
	out, err := Unseal(s.master, label, []byte(name), sealed)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", f.Name(), err)
	}
	return out, nil
}

// Put writes a record; when it returns nil the record is on disk, and after a
// crash either the old or the new one is there.
func (s *Store) Put(name string, plaintext []byte) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	sealed, err := Seal(s.master, label, []byte(name), plaintext)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := writeFile(filepath.Join(s.dir, recordsDir), name, sealed); err != nil {
		return fmt.Errorf("writing record: %w", err)
	}
	return nil
}

// Delete removes a record; one that is not there is no error.
func (s *Store) Delete(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dir := filepath.Join(s.dir, recordsDir)
	if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("deleting record: %w", err)
	}
	return syncDir(dir)
}

// Close unlocks the directory.
func (s *Store) Close() error {
	clear(s.master)
	return s.lock.Close()
}

// writeFile replaces dir/name by way of a temporary file in the same folder.
func writeFile(dir, name string, content []byte) error {
	f, err := os.CreateTemp(dir, tempPrefix) // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closing := d.Close(); err == nil {
		err = closing
	}
	return err
}
