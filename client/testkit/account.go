package testkit

import (
	"fmt"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/wire"
)

// Account returns a user's account, made if there is none.
func (s *Server) Account(user string) *account.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.account(user)
}

func (s *Server) account(user string) *account.Key {
	if s.accounts[user] == nil {
		s.accounts[user] = must(account.New())
	}
	return s.accounts[user]
}

// ManifestOf is what the user's account would sign for f.
func (s *Server) ManifestOf(f Function) wire.Manifest {
	id := s.Account(f.User).ID()
	return s.manifest(&f, id[:])
}

func (s *Server) manifest(f *Function, acct []byte) wire.Manifest {
	access := wire.AccessToken
	if f.Public {
		access = wire.AccessPublic
	}
	return wire.Manifest{V: 2, Owner: wire.Subject{Iss: "fake", Sub: f.User + "|1"}, Acct: acct, Name: f.Name, Access: access,
		Decrypt: wire.DecryptOwner, Seq: f.Seq, Checksum: f.checksum(), Salt: fmt.Appendf(nil, "%016d", s.count)}
}

// sign fills in what makes f a function of its user.
func (s *Server) sign(f *Function) {
	if f.Name == "" {
		f.Name = "unnamed"
	}
	if f.Unsigned {
		m := s.manifest(f, nil)
		f.Manifest = must(m.Encode())
		return
	}
	key := s.account(f.User)
	id, public := key.ID(), key.Public()
	m := s.manifest(f, id[:])
	manifest, sig, err := key.SignManifest(&m)
	if err != nil {
		panic(err) // tests name their functions
	}
	f.Manifest, f.Sig, f.Key = manifest, sig, public[:]
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
