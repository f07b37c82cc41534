// Package testkit plays a security module for tests. Shipped code must not import it.
//
// It trusts its caller. It refuses what a module refuses: unknown requests, registers out
// of range, changes to locked registers. Documents hold locked registers only.
package testkit

import (
	"errors"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	attestkit "github.com/cape-functions/cape/core/attest/testkit"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Module is an nsm.Transport. It is safe for concurrent use.
type Module struct {
	// Authority signs the documents.
	Authority *attestkit.Authority
	// Now is the module's clock.
	Now func() time.Time
	// Answer, when not nil, may replace an answer; it gets the request.
	Answer func(req []byte) (answer []byte, err error, replaced bool)

	mu     sync.Mutex
	pcrs   [nitro.MaxPCRs]nitro.PCR
	locked [nitro.MaxPCRs]bool
	asked  int
}

// New returns a module whose registers 0 to 4 and 8 have the values of attestkit.PCR, and
// whose registers 0 to 15 are locked, as those of a signed image.
func New(name string, now func() time.Time) *Module {
	m := &Module{Authority: attestkit.NewAuthority(name, now()), Now: now}
	for i := range 16 {
		m.locked[i] = true
	}
	for _, i := range []int{0, 1, 2, 3, 4, 8} {
		m.pcrs[i] = attestkit.PCR(i)
	}
	return m
}

// Set puts a value into a register, locked or not.
func (m *Module) Set(i int, value nitro.PCR) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pcrs[i] = value
}

// Lock locks a register, as LockPCR does.
func (m *Module) Lock(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locked[i] = true
}

// Unlock opens a register, which no module does.
func (m *Module) Unlock(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.locked[i] = false
}

// Documents is how many attestation documents were asked for.
func (m *Module) Documents() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// Close implements nsm.Transport.
func (m *Module) Close() error { return nil }

// Exchange implements nsm.Transport.
func (m *Module) Exchange(req []byte) ([]byte, error) {
	if m.Answer != nil {
		if answer, err, ok := m.Answer(req); ok {
			return answer, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name, fields, err := parse(req)
	if err != nil {
		return cbor.Marshal(map[string]any{"Error": "InvalidOperation"})
	}
	answer, code := m.handle(name, fields)
	switch {
	case code != "":
		return cbor.Marshal(map[string]any{"Error": code})
	case answer == nil:
		return cbor.Marshal(name)
	}
	return cbor.Marshal(map[string]any{name: answer})
}

type fields struct {
	Index     int    `cbor:"index"`
	Data      []byte `cbor:"data"`
	UserData  []byte `cbor:"user_data"`
	Nonce     []byte `cbor:"nonce"`
	PublicKey []byte `cbor:"public_key"`
}

func parse(req []byte) (string, fields, error) {
	var name string
	if cbor.Unmarshal(req, &name) == nil {
		return name, fields{}, nil
	}
	var outer map[string]fields
	if err := cbor.Unmarshal(req, &outer); err != nil || len(outer) != 1 {
		return "", fields{}, errors.New("not a request")
	}
	for name, f := range outer {
		return name, f, nil
	}
	return "", fields{}, nil
}

func (m *Module) handle(name string, f fields) (answer map[string]any, code string) {
	if f.Index < 0 || f.Index >= nitro.MaxPCRs {
		return nil, "InvalidIndex"
	}
	switch name {
	case "Attestation":
		return m.attest(f)
	case "DescribePCR":
		value := m.pcrs[f.Index]
		return map[string]any{"lock": m.locked[f.Index], "data": value[:]}, ""
	case "ExtendPCR":
		if m.locked[f.Index] {
			return nil, "ReadOnlyIndex"
		}
		value := nitro.Extend(m.pcrs[f.Index], f.Data)
		m.pcrs[f.Index] = value
		return map[string]any{"data": value[:]}, ""
	case "LockPCR":
		if m.locked[f.Index] {
			return nil, "ReadOnlyIndex"
		}
		m.locked[f.Index] = true
		return nil, ""
	}
	return nil, "InvalidOperation"
}

func (m *Module) attest(f fields) (map[string]any, string) {
	m.asked++
	doc := m.Authority.Document(m.Now())
	doc.PublicKey, doc.UserData, doc.Nonce = f.PublicKey, f.UserData, f.Nonce
	doc.PCRs = map[int]nitro.PCR{}
	for i, locked := range m.locked {
		if locked {
			doc.PCRs[i] = m.pcrs[i]
		}
	}
	raw, err := nitro.Sign(doc, m.Authority.LeafKey, nil)
	if err != nil {
		return nil, "InvalidArgument"
	}
	return map[string]any{"document": raw}, ""
}
