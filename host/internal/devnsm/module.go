package devnsm

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Registers of a module. On Nitro the hypervisor owns the first sixteen.
const (
	registers = 32
	reserved  = 16
)

// Limits of one request, those of the NSM driver.
const (
	maxRequest  = 0x1000
	maxUserData = 1024
	maxNonce    = 512
	maxKey      = 1024
	requestWait = 30 * time.Second // between the two halves of a frame
)

// Module is the security module of one enclave: its registers and its
// certificate. It is safe for concurrent use.
type Module struct {
	authority *Authority
	id        string

	mu     sync.Mutex
	pcrs   [registers]nitro.PCR
	locked [registers]bool
	leaf   *certified
	mid    *certified
}

// NewModule returns a module in the state in which an enclave boots: pcrs are
// set, registers 0 to 15 are locked, the rest are zero and open.
func (a *Authority) NewModule(pcrs map[int]nitro.PCR) (*Module, error) {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	m := &Module{authority: a, id: "i-dev-enc" + hex.EncodeToString(id)}
	for i, v := range pcrs {
		if i < 0 || i >= reserved {
			return nil, fmt.Errorf("PCR%d cannot be set at boot", i)
		}
		m.pcrs[i] = v
	}
	for i := range reserved {
		m.locked[i] = true
	}
	return m, nil
}

// Serve answers requests on conn, u32be(length) || CBOR each way, until the
// other side closes it or breaks the framing.
func (m *Module) Serve(conn net.Conn) {
	defer conn.Close()
	for {
		request, err := readFrame(conn)
		if err != nil {
			return
		}
		answer, err := encode(m.Exchange(request))
		if err != nil {
			return
		}
		if conn.SetWriteDeadline(m.authority.now().Add(requestWait)) != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func readFrame(conn net.Conn) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxRequest {
		return nil, fmt.Errorf("request of %d bytes", n)
	}
	if err := conn.SetReadDeadline(time.Now().Add(requestWait)); err != nil {
		return nil, err
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	return body, conn.SetReadDeadline(time.Time{})
}

// Error codes of the NSM API.
const (
	invalidArgument  = "InvalidArgument"
	invalidIndex     = "InvalidIndex"
	readOnlyIndex    = "ReadOnlyIndex"
	invalidOperation = "InvalidOperation"
	inputTooLarge    = "InputTooLarge"
	internalError    = "InternalError"
)

func failure(code string) any { return map[string]string{"Error": code} }

// Exchange answers one request. The result encodes to the CBOR of the
// NSM API (crate aws-nitro-enclaves-nsm-api, enum Response).
func (m *Module) Exchange(request []byte) any {
	var name string
	if cbor.Unmarshal(request, &name) == nil {
		switch name {
		case "DescribeNSM":
			return m.describe()
		case "GetRandom":
			return m.random()
		}
		return failure(invalidOperation)
	}
	dec, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 4}.DecMode()
	if err != nil {
		return failure(internalError)
	}
	var call map[string]cbor.RawMessage
	if err := dec.Unmarshal(request, &call); err != nil || len(call) != 1 {
		return failure(invalidOperation)
	}
	for op, body := range call {
		return m.call(dec, op, body)
	}
	return failure(invalidOperation)
}

func (m *Module) call(dec cbor.DecMode, op string, body cbor.RawMessage) any {
	if op == "Attestation" {
		var a struct {
			UserData  []byte `cbor:"user_data"`
			Nonce     []byte `cbor:"nonce"`
			PublicKey []byte `cbor:"public_key"`
		}
		if dec.Unmarshal(body, &a) != nil {
			return failure(invalidArgument)
		}
		return m.attest(a.UserData, a.Nonce, a.PublicKey)
	}
	var a struct {
		Index *int   `cbor:"index"`
		Range *int   `cbor:"range"`
		Data  []byte `cbor:"data"`
	}
	if dec.Unmarshal(body, &a) != nil {
		return failure(invalidArgument)
	}
	if op == "LockPCRs" {
		return m.lockRange(a.Range)
	}
	if a.Index == nil || *a.Index < 0 || *a.Index >= registers {
		return failure(invalidIndex)
	}
	switch op {
	case "DescribePCR":
		m.mu.Lock()
		defer m.mu.Unlock()
		return map[string]any{"DescribePCR": map[string]any{"lock": m.locked[*a.Index], "data": m.pcrs[*a.Index][:]}}
	case "ExtendPCR":
		return m.extend(*a.Index, a.Data)
	case "LockPCR":
		return m.lock(*a.Index)
	}
	return failure(invalidOperation)
}

func (m *Module) describe() any {
	m.mu.Lock()
	defer m.mu.Unlock()
	locked := []int{}
	for i, l := range m.locked {
		if l {
			locked = append(locked, i)
		}
	}
	return map[string]any{"DescribeNSM": map[string]any{
		"version_major": 1, "version_minor": 0, "version_patch": 0, "module_id": m.id,
		"max_pcrs": registers, "locked_pcrs": locked, "digest": "SHA384",
	}}
}

func (m *Module) random() any {
	b := make([]byte, 256)
	if _, err := rand.Read(b); err != nil {
		return failure(internalError)
	}
	return map[string]any{"GetRandom": map[string]any{"random": b}}
}

func (m *Module) extend(i int, data []byte) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[i] {
		return failure(readOnlyIndex)
	}
	m.pcrs[i] = nitro.Extend(m.pcrs[i], data)
	return map[string]any{"ExtendPCR": map[string]any{"data": m.pcrs[i][:]}}
}

func (m *Module) lock(i int) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[i] {
		return failure(readOnlyIndex)
	}
	m.locked[i] = true
	return "LockPCR"
}

func (m *Module) lockRange(n *int) any {
	if n == nil || *n < 0 || *n > registers {
		return failure(invalidIndex)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range *n {
		m.locked[i] = true
	}
	return "LockPCRs"
}

func (m *Module) attest(userData, nonce, publicKey []byte) any {
	if len(userData) > maxUserData || len(nonce) > maxNonce || len(publicKey) > maxKey {
		return failure(inputTooLarge)
	}
	document, err := m.document(userData, nonce, publicKey)
	if err != nil {
		return failure(internalError)
	}
	return map[string]any{"Attestation": map[string]any{"document": document}}
}

// document signs a document over the locked registers, as Nitro does.
func (m *Module) document(userData, nonce, publicKey []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.authority.now()
	if m.leaf == nil || now.Add(leafRenewal).After(m.leaf.cert.NotAfter) {
		leaf, mid, err := m.authority.leaf(m.id)
		if err != nil {
			return nil, errors.Join(errors.New("renewing the module's certificate"), err)
		}
		m.leaf, m.mid = leaf, mid
	}
	pcrs := map[int]nitro.PCR{}
	for i, l := range m.locked {
		if l {
			pcrs[i] = m.pcrs[i]
		}
	}
	return nitro.Sign(nitro.Document{
		ModuleID: m.id, Digest: "SHA384", Timestamp: now, PCRs: pcrs,
		Certificate: m.leaf.cert.Raw, CABundle: [][]byte{m.authority.root.Raw, m.mid.cert.Raw},
		PublicKey: publicKey, UserData: userData, Nonce: nonce,
	}, m.leaf.key, rand.Reader)
}

// PCRs returns the registers as they are now.
func (m *Module) PCRs() map[int]nitro.PCR {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[int]nitro.PCR{}
	for i, v := range m.pcrs {
		out[i] = v
	}
	return maps.Clone(out)
}

func encode(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	return mode.Marshal(v)
}
