package devserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cape-functions/cape/core/wire"
)

// ErrTrustFile: the client's trust file is not one that may be changed.
var ErrTrustFile = errors.New("trust file cannot be used")

// trustLockWait is how long clients may hold the trust file.
const trustLockWait = 20 * time.Second

// writeTrust enters this platform's enclave into the trust file. Entries of
// earlier addresses of the same development root go; what was remembered of
// functions stays, since functions do. Clients change the file as well, each
// under the lock of trust.json.lock.
func (c *clientFiles) writeTrust(ctx context.Context, release wire.Release) error {
	path := c.config("trust.json")
	unlock, err := lockTrust(ctx, path+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	file, err := readTrust(path)
	if err != nil {
		return err
	}
	entry, err := c.trustEntry(release)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(file.Origins)) {
		if old := file.Origins[name]; old != nil && old.Root == entry.Root {
			inherit(entry, old)
			delete(file.Origins, name)
		}
	}
	file.Origins[strings.ToLower(c.url)] = entry // it names a port, as clients write origins
	b, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

func inherit(entry, old *wire.TrustOrigin) {
	if entry.Functions == nil {
		entry.Functions = map[string]string{}
	}
	if entry.Names == nil {
		entry.Names = map[string]*wire.TrustedNamed{}
	}
	maps.Copy(entry.Functions, old.Functions)
	maps.Copy(entry.Names, old.Names)
	if entry.Accounts == nil {
		entry.Accounts = map[string]string{}
	}
	maps.Copy(entry.Accounts, old.Accounts)
}

func lockTrust(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the trust file: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, trustLockWait)
	defer cancel()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil // which releases it
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("locking the trust file: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for %s: %w", path, ctx.Err()), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// readTrust reads the file strictly: a field that this program does not know
// would be lost when it is written again, and with it somebody's pin.
func readTrust(path string) (*wire.TrustFile, error) {
	file := &wire.TrustFile{Version: 1}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the trust file: %w", err)
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(file); err != nil || file.Version != 1 {
			return nil, fmt.Errorf("%w: %s is not of a form that this program knows; move it away", ErrTrustFile, path)
		}
	}
	if file.Origins == nil {
		file.Origins = map[string]*wire.TrustOrigin{}
	}
	return file, nil
}

func (c *clientFiles) trustEntry(release wire.Release) (*wire.TrustOrigin, error) {
	pcr16, err := wire.ExpectedPCR16(c.trust)
	if err != nil {
		return nil, err
	}
	believes, err := wire.Marshal(c.trust)
	if err != nil {
		return nil, err
	}
	root, policy := sha256.Sum256(c.rootDER), sha256.Sum256(c.policy)
	entry := &wire.TrustOrigin{
		Root: hex.EncodeToString(root[:]), RootDER: c.rootDER, Development: true, KeyPolicy: hex.EncodeToString(policy[:]),
		KMS: c.kms, Trust: believes, Added: c.now().UTC().Format(time.RFC3339), PCRs: map[string][]string{"16": {hex.EncodeToString(pcr16[:])}},
	}
	for _, i := range []string{"0", "1", "2", "8"} {
		if v := release.Measurements["PCR"+i]; v != "" {
			entry.PCRs[i] = []string{v}
		}
	}
	return entry, nil
}
