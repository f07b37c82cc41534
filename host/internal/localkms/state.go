package localkms

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cape-functions/cape/host/internal/localkms/keystore"
)

const (
	keyRecord   = "key-"
	aliasRecord = "aliases"
)

// load reads every key and alias.
func (s *Server) load() error {
	names, err := s.store.List(keyRecord)
	if err != nil {
		return err
	}
	for _, name := range names {
		record, err := s.store.Get(name)
		if err != nil {
			return err
		}
		k, err := parseKey(record)
		if err != nil {
			return err
		}
		if keyRecord+k.ID != name {
			return fmt.Errorf("%w: record %s holds key %s", ErrStore, name, k.ID)
		}
		s.keys[k.ID] = k
	}
	record, err := s.store.Get(aliasRecord)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(record, &s.aliases); err != nil {
		return fmt.Errorf("%w: reading aliases: %w", ErrStore, err)
	}
	return nil
}

// save stores k and makes it what readers see. The caller holds s.mu.
func (s *Server) save(k *key) error {
	record, err := json.Marshal(k)
	if err != nil {
		return internal(err)
	}
	if err := s.store.Put(keyRecord+k.ID, record); err != nil {
		return internal(err)
	}
	s.keys[k.ID] = k
	return nil
}

// saveAliases stores a new set of aliases. The caller holds s.mu.
func (s *Server) saveAliases(aliases map[string]alias) error {
	record, err := json.Marshal(aliases)
	if err != nil {
		return internal(err)
	}
	if err := s.store.Put(aliasRecord, record); err != nil {
		return internal(err)
	}
	s.aliases = aliases
	return nil
}

// update changes a key as it is at this moment: change gets a copy and may
// refuse.
func (s *Server) update(id string, change func(*key) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[id]
	if k == nil {
		return s.notFound(id)
	}
	c := k.clone()
	if err := change(c); err != nil {
		return err
	}
	return s.save(c)
}

// lookup finds a key by id, key ARN and, with names, alias name or ARN; the
// second result is the alias that was used.
func (s *Server) lookup(ref string, names bool) (*key, string, error) {
	if ref == "" || len(ref) > 2048 {
		return nil, "", fail(codeValidation, "KeyId must have 1 to 2048 characters")
	}
	if err := s.purge(); err != nil {
		return nil, "", err
	}
	id, name := ref, ""
	if strings.HasPrefix(ref, "arn:") {
		rest, ok := strings.CutPrefix(ref, s.arnPrefix())
		if !ok {
			return nil, "", s.notFound(ref)
		}
		if id, ok = strings.CutPrefix(rest, "key/"); !ok {
			id, name = "", rest
		}
	} else if strings.HasPrefix(ref, "alias/") {
		id, name = "", ref
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name != "" {
		if !names || !strings.HasPrefix(name, "alias/") {
			return nil, "", fail(codeInvalidArn, "%q does not name a key by its id or key ARN, which this operation needs", ref)
		}
		id = s.aliases[name].Target
	}
	k := s.keys[id]
	if k == nil {
		return nil, "", s.notFound(ref)
	}
	return k, name, nil
}

func (s *Server) notFound(ref string) error {
	if strings.HasPrefix(ref, "alias/") {
		ref = s.arnPrefix() + ref
	} else if !strings.HasPrefix(ref, "arn:") {
		ref = s.keyARN(ref)
	}
	return fail(codeNotFound, "Key '%s' does not exist", ref)
}

// purge destroys keys whose waiting period is over, and material that expired.
func (s *Server) purge() error {
	now := s.now()
	due := func(k *key) bool {
		return k.State == stateDeleting && !k.Deletion.After(now) ||
			k.Material != nil && !k.ValidTo.IsZero() && !k.ValidTo.After(now)
	}
	s.mu.RLock()
	found := false
	for _, k := range s.keys {
		found = found || due(k)
	}
	s.mu.RUnlock()
	if !found {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, k := range s.keys {
		switch {
		case !due(k):
		case k.State == stateDeleting && !k.Deletion.After(now):
			if err := s.destroy(id); err != nil {
				return err
			}
		default:
			c := k.clone()
			c.Material, c.Expiration, c.ValidTo = nil, "", time.Time{}
			if c.State != stateDeleting {
				c.State = stateImport
			}
			if err := s.save(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// destroy removes a key and its aliases for good. The caller holds s.mu.
func (s *Server) destroy(id string) error {
	aliases := maps.Clone(s.aliases)
	maps.DeleteFunc(aliases, func(_ string, a alias) bool { return a.Target == id })
	if len(aliases) != len(s.aliases) {
		if err := s.saveAliases(aliases); err != nil {
			return err
		}
	}
	if err := s.store.Delete(keyRecord + id); err != nil {
		return internal(err)
	}
	delete(s.keys, id)
	return nil
}

// aliasesOf returns the names of a key, sorted.
func (s *Server) aliasesOf(id string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []string
	for name, a := range s.aliases {
		if a.Target == id {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// arnPrefix is what all ARNs of this server begin with.
func (s *Server) arnPrefix() string {
	return "arn:" + s.partition() + ":kms:" + s.region + ":" + s.account + ":"
}

func (s *Server) keyARN(id string) string { return s.arnPrefix() + "key/" + id }

// partition follows from the region's name.
func (s *Server) partition() string {
	switch {
	case strings.HasPrefix(s.region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(s.region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// newKeyID makes a random UUID, or the form that multi-Region keys have.
func newKeyID(multiRegion bool) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	if multiRegion {
		return "mrk-" + h
	}
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}
