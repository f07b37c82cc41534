// Package kek keeps what a platform knows of the key that wraps all others: its
// ARN, its policy, its birth document, and the trust that the policy names. The
// key itself never leaves KMS; an enclave makes it, since the birth document is
// the proof that nobody else could have used it first.
package kek

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/store/link"
)

// Names of the rows in which a platform remembers its key.
const (
	metaARN    = "kek"
	metaPolicy = "kek-policy"
	metaBirth  = "kek-birth"
	metaTrust  = "trust"
)

// birthWait bounds the making of a key: a virtual machine may have to boot.
const birthWait = 3 * time.Minute

var (
	// ErrNone: the platform has no key yet.
	ErrNone = errors.New("the platform has no key yet: make it with caped kms init")
	// ErrExists: the platform has a key, and there is never a second one.
	ErrExists = errors.New("the platform has a key already")
	// ErrBarren: the enclave that was to make the key ended without one.
	ErrBarren = errors.New("the enclave ended without making a key")
)

// Key is what is known of a KEK.
type Key struct {
	ARN    string
	Policy []byte // exact text
	Birth  []byte // attestation document
	Trust  wire.Trust
}

// Rows is where a key is kept; *store.Store is one.
type Rows interface {
	Meta(ctx context.Context, names ...string) (map[string][]byte, error)
	// AddMeta stores all values, or none and false when one of the names has a
	// value already.
	AddMeta(ctx context.Context, values map[string][]byte) (bool, error)
}

// Load returns the platform's key, or ErrNone.
func Load(ctx context.Context, rows Rows) (*Key, error) {
	m, err := rows.Meta(ctx, metaARN, metaPolicy, metaBirth, metaTrust)
	if err != nil {
		return nil, err
	}
	if len(m[metaARN]) == 0 {
		return nil, ErrNone
	}
	k := &Key{ARN: string(m[metaARN]), Policy: m[metaPolicy], Birth: m[metaBirth]}
	if err := wire.Unmarshal(m[metaTrust], wire.MaxConfig, &k.Trust); err != nil {
		return nil, fmt.Errorf("reading the platform's trust: %w", err)
	}
	return k, nil
}

// Save remembers the platform's first key; ErrExists when there is one.
func (k *Key) Save(ctx context.Context, rows Rows) error {
	trust, err := wire.Marshal(k.Trust)
	if err != nil {
		return err
	}
	added, err := rows.AddMeta(ctx, map[string][]byte{metaARN: []byte(k.ARN), metaPolicy: k.Policy, metaBirth: k.Birth, metaTrust: trust})
	if err != nil {
		return fmt.Errorf("remembering the platform's key: %w", err)
	}
	if !added {
		return ErrExists
	}
	return nil
}

// Boot is what an enclave boots with that serves with k, routes aside.
func (k *Key) Boot() (wire.Boot, error) {
	config, err := wire.Marshal(wire.Config{Trust: k.Trust, KMS: k.ARN, Limits: wire.DefaultLimits()})
	return wire.Boot{Mode: wire.ModeServe, Config: config, Birth: k.Birth}, err
}

// Birth is what an enclave boots with that is to make a key for trust.
func Birth(trust wire.Trust, request wire.KEKRequest) (wire.Boot, error) {
	config, err := wire.Marshal(wire.Config{Trust: trust, Limits: wire.DefaultLimits()})
	return wire.Boot{Mode: wire.ModeKMSInit, Config: config, Init: &request}, err
}

// Make has an enclave make a key and returns what it said of it. boot is the
// message of Birth with routes; services makes the enclave's links around it;
// save is called with the birth before the enclave may end.
func Make(ctx context.Context, l launcher.Launcher, boot wire.Boot, services func(link.Boot) launcher.Spec, save func(context.Context, wire.Birth) error) (*wire.Birth, error) {
	ctx, cancel := context.WithTimeout(ctx, birthWait)
	defer cancel()
	var mu sync.Mutex
	var born *wire.Birth
	spec := services(link.Boot{
		Message: func(context.Context) (wire.Boot, error) { return boot, nil },
		Born: func(ctx context.Context, b wire.Birth) error {
			mu.Lock()
			defer mu.Unlock()
			err := save(ctx, b)
			if err == nil {
				born = &b
			}
			return err
		},
	})
	spec.Oneshot = true
	e, err := l.Launch(ctx, spec)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.Done():
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("making the platform's key: %w", ctx.Err()), e.Close())
	}
	mu.Lock()
	defer mu.Unlock()
	if born == nil {
		return nil, errors.Join(ErrBarren, e.Err())
	}
	return born, nil
}
