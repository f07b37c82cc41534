package devserver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrLocked: another caped uses the data directory.
var ErrLocked = errors.New("another caped uses this data directory")

// lockDir takes the directory for this process; it is released when the file is
// closed or the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := make([]byte, 20)
		n, _ := f.ReadAt(holder, 0) // only for the message
		pid := strings.TrimSpace(string(holder[:n]))
		return nil, errors.Join(fmt.Errorf("%w: %s (process %s); stop it first, or name another directory with --data-dir", ErrLocked, dir, pid), f.Close())
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the data directory: %w", err), f.Close())
	}
	return f, nil
}

// maxRunDir is the longest directory that has room for the paths of unix
// sockets below it: those have at most 107 bytes.
const maxRunDir = 64

// runDir makes an empty directory for the sockets of enclaves: DIR/run, or,
// where that is too long, one of this user and directory in /tmp. What a killed
// caped left there goes.
func runDir(data string) (string, error) {
	dir := filepath.Join(data, "run")
	if len(dir) > maxRunDir {
		sum := sha256.Sum256([]byte(data))
		dir = filepath.Join("/tmp", fmt.Sprintf("cape-run-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:8])))
		if err := ours(dir); err != nil {
			return "", err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("clearing %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil { // not MkdirAll: it must not be there
		return "", fmt.Errorf("making a directory for sockets: %w", err)
	}
	return dir, nil
}

// ours refuses a directory in /tmp that another user put there.
func ours(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("making a directory for sockets: %w", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("making a directory for sockets: %s belongs to somebody else; use a shorter --data-dir", dir)
	}
	return nil
}

// writeFile replaces a file: whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // fails after the rename, which is fine
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
