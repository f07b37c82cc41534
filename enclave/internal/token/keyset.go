package token

import (
	"context"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// refreshAfter is the age at which a key set is fetched again, so that a key that was
	// taken out stops being accepted.
	refreshAfter = 10 * time.Minute
	// keepFor is how long an old set serves while its issuer cannot be reached.
	keepFor = 12 * time.Hour
	// refreshEvery bounds how often callers with unknown keys can cause a fetch.
	refreshEvery = 10 * time.Second
	// retryEvery is the same while there are no keys at all.
	retryEvery = time.Second
	// fetchWithin bounds one fetch, whoever waits for it.
	fetchWithin = 10 * time.Second
)

// fetched is a key set and the end of its validity; zero: it has none of its own.
type fetched struct {
	keys   []jose.JSONWebKey
	expiry time.Time
}

// keySet is the keys of one issuer.
type keySet struct {
	fetch func(ctx context.Context) (fetched, error)
	now   func() time.Time

	flight singleflight.Group
	mu     sync.Mutex
	have   fetched
	at     time.Time // of the last success
	tried  time.Time
}

// find returns the keys that may have signed a token with this header: those of the key id,
// or without one the only key of the algorithm.
func (s *keySet) find(ctx context.Context, kid, alg string) ([]jose.JSONWebKey, error) {
	keys, fresh := s.usable()
	found := choose(keys, kid, alg)
	if len(found) > 0 && fresh {
		return found, nil
	}
	err := s.refresh(ctx)
	keys, _ = s.usable()
	found = choose(keys, kid, alg)
	switch {
	case len(found) > 0:
		return found, nil
	case len(keys) == 0 && err != nil:
		return nil, ErrUnavailable
	}
	return nil, ErrKey
}

// usable returns the keys that may be used now, and whether they need no refresh.
func (s *keySet) usable() (keys []jose.JSONWebKey, fresh bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at.IsZero() || now.Sub(s.at) > keepFor || (!s.have.expiry.IsZero() && !now.Before(s.have.expiry)) {
		return nil, false
	}
	return s.have.keys, now.Sub(s.at) < refreshAfter
}

// refresh fetches once for all who wait, unless it was tried a moment ago.
func (s *keySet) refresh(ctx context.Context) error {
	if !s.mayTry() {
		return ErrUnavailable
	}
	done := s.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWithin)
		defer cancel()
		got, err := s.fetch(ctx)
		now := s.now()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tried = now
		if err == nil {
			s.have, s.at = got, now
		}
		return nil, err
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return ErrUnavailable
	}
}

func (s *keySet) mayTry() bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := refreshEvery
	if len(s.have.keys) == 0 {
		wait = retryEvery
	}
	return s.tried.IsZero() || now.Sub(s.tried) >= wait || now.Before(s.tried)
}

// choose picks by key id and algorithm. Without a key id it accepts a single candidate only:
// trying all would let one weak key of the set stand for every other.
func choose(keys []jose.JSONWebKey, kid, alg string) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, k := range keys {
		if kid != "" && k.KeyID != kid {
			continue
		}
		if suits(k, jose.SignatureAlgorithm(alg)) {
			out = append(out, k)
		}
	}
	if kid == "" && len(out) > 1 {
		return nil
	}
	return out
}
