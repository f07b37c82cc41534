package localkms

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"time"
)

const (
	pooledBits   = 4096
	defaultPairs = 2
	maxPairs     = 16
	// closeGrace is how long close waits for a pair in the making: making one
	// cannot be interrupted, and its goroutine ends by itself.
	closeGrace = 2 * time.Second
)

// pair is an RSA key pair in its encodings.
type pair struct{ private, public []byte }

func newPair(bits int) (pair, error) {
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return pair{}, err
	}
	return encodePair(k, &k.PublicKey)
}

// encodePair gives PKCS #8 and SubjectPublicKeyInfo, both DER.
func encodePair(private, public any) (pair, error) {
	var p pair
	var err error
	if p.private, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		return pair{}, err
	}
	p.public, err = x509.MarshalPKIXPublicKey(public)
	return p, err
}

// pool keeps RSA-4096 pairs ahead of need: making one takes about a second.
type pool struct {
	ready chan pair
	slots chan struct{} // bounds pairs made at once on demand
	quit  chan struct{}
	done  chan struct{}
}

func newPool(size int) *pool {
	p := &pool{
		ready: make(chan pair, max(size, 0)),
		slots: make(chan struct{}, 2),
		quit:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	if size <= 0 {
		close(p.done)
		return p
	}
	go p.fill()
	return p
}

// fill makes one pair at a time, so that it never takes more than one core.
func (p *pool) fill() {
	defer close(p.done)
	for {
		select {
		case <-p.quit:
			return
		default:
		}
		k, err := newPair(pooledBits)
		if err != nil {
			return // get reports it: it makes its own
		}
		select {
		case p.ready <- k:
		case <-p.quit:
			return
		}
	}
}

// get returns a pair that nobody else gets.
func (p *pool) get(ctx context.Context) (pair, error) {
	select {
	case k := <-p.ready:
		return k, nil
	default:
	}
	return p.make(ctx, pooledBits, p.ready)
}

// make makes a pair for one caller, or takes one that becomes ready first. A
// pair whose caller has gone is dropped.
func (p *pool) make(ctx context.Context, bits int, ready <-chan pair) (pair, error) {
	type result struct {
		pair pair
		err  error
	}
	select {
	case k := <-ready:
		return k, nil
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return pair{}, ctx.Err()
	}
	made := make(chan result, 1)
	go func() {
		defer func() { <-p.slots }()
		k, err := newPair(bits)
		made <- result{k, err}
	}()
	select {
	case r := <-made:
		return r.pair, r.err
	case k := <-ready:
		return k, nil
	case <-ctx.Done():
		return pair{}, ctx.Err()
	}
}

// close ends the background work.
func (p *pool) close() {
	close(p.quit)
	select {
	case <-p.done:
	case <-time.After(closeGrace):
	}
}
