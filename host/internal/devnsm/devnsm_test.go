package devnsm

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/cape-functions/cape/core/attest/chain"
	"github.com/cape-functions/cape/core/attest/nitro"
)

func open(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ask sends one request over a connection and decodes the answer into v.
func ask(t *testing.T, conn net.Conn, request, v any) {
	t.Helper()
	body, err := cbor.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		t.Fatal(err)
	}
	var head [4]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Unmarshal(answer, v); err != nil {
		t.Fatalf("%x: %v", answer, err)
	}
}

func serve(t *testing.T, a *Authority, pcrs map[int]nitro.PCR) net.Conn {
	t.Helper()
	m, err := a.NewModule(pcrs)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); m.Serve(there) }()
	t.Cleanup(func() { here.Close(); <-done })
	return here
}

type object = map[string]any

func TestAuthorityIsKept(t *testing.T) {
	dir := t.TempDir()
	first, second := open(t, dir), open(t, dir)
	if string(first.RootDER()) != string(second.RootDER()) || !first.SigningCertificate().Equal(second.SigningCertificate()) {
		t.Error("a second opening made another root or signing certificate")
	}
	info, err := os.Stat(filepath.Join(dir, "root.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("root.key: %v %v", info.Mode(), err)
	}
	swapped, err := os.ReadFile(filepath.Join(dir, "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	otherDir := t.TempDir()
	open(t, otherDir)
	if err := os.WriteFile(filepath.Join(otherDir, "root.key"), swapped, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(otherDir, time.Now); err == nil {
		t.Error("a key that belongs to another certificate was accepted")
	}
}

func TestDocument(t *testing.T) {
	a := open(t, t.TempDir())
	conn := serve(t, a, map[int]nitro.PCR{0: {1}, 1: {2}, 2: {3}, 8: {4}})
	var ext struct{ ExtendPCR struct{ Data []byte } }
	ask(t, conn, object{"ExtendPCR": object{"index": 16, "data": []byte("trust")}}, &ext)
	want := nitro.Extend(nitro.PCR{}, []byte("trust"))
	if string(ext.ExtendPCR.Data) != string(want[:]) {
		t.Error("ExtendPCR did not extend")
	}
	attestOnce := func() *nitro.Signed {
		var got struct{ Attestation struct{ Document []byte } }
		ask(t, conn, object{"Attestation": object{"user_data": []byte("u"), "nonce": []byte("n"), "public_key": nil}}, &got)
		s, err := nitro.Parse(got.Attestation.Document)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if _, ok := attestOnce().Document.PCRs[16]; ok {
		t.Error("a document holds a register that is not locked")
	}
	var name string
	ask(t, conn, object{"LockPCRs": object{"range": 32}}, &name)
	if name != "LockPCRs" {
		t.Errorf("LockPCRs answered %q", name)
	}
	s := attestOnce()
	if s.Document.PCRs[16] != want || s.Document.PCRs[0] != (nitro.PCR{1}) || len(s.Document.PCRs) != 32 {
		t.Error("document does not hold the registers")
	}
	if string(s.Document.UserData) != "u" || string(s.Document.Nonce) != "n" || s.Document.PublicKey != nil {
		t.Error("document does not hold what was asked for")
	}
	if _, err := chain.New().Verify(s, [][]byte{a.RootDER()}, time.Now()); err != nil {
		t.Errorf("verifying: %v", err)
	}
	if _, err := chain.New().Verify(s, [][]byte{chain.AWSRoot()}, time.Now()); err == nil {
		t.Error("a development document verified under AWS's root")
	}
	for _, c := range []struct {
		name string
		req  any
		code string
	}{
		{"extend locked", object{"ExtendPCR": object{"index": 16, "data": []byte("x")}}, "ReadOnlyIndex"},
		{"extend reserved", object{"ExtendPCR": object{"index": 0, "data": []byte("x")}}, "ReadOnlyIndex"},
		{"index too large", object{"DescribePCR": object{"index": 32}}, "InvalidIndex"},
		{"no index", object{"DescribePCR": object{}}, "InvalidIndex"},
		{"unknown", object{"Reboot": object{"index": 1}}, "InvalidOperation"},
		{"unknown name", "Reboot", "InvalidOperation"},
		{"two calls", object{"LockPCR": object{"index": 1}, "ExtendPCR": object{"index": 1}}, "InvalidOperation"},
		{"user data too large", object{"Attestation": object{"user_data": make([]byte, 1025)}}, "InputTooLarge"},
	} {
		var got struct{ Error string }
		if ask(t, conn, c.req, &got); got.Error != c.code {
			t.Errorf("%s: answered %q", c.name, got.Error)
		}
	}
	var d struct {
		DescribeNSM struct {
			MaxPCRs int   `cbor:"max_pcrs"`
			Locked  []int `cbor:"locked_pcrs"`
			Digest  string
		}
	}
	if ask(t, conn, "DescribeNSM", &d); d.DescribeNSM.MaxPCRs != 32 || len(d.DescribeNSM.Locked) != 32 || d.DescribeNSM.Digest != "SHA384" {
		t.Errorf("DescribeNSM: %+v", d)
	}
	var r struct{ GetRandom struct{ Random []byte } }
	if ask(t, conn, "GetRandom", &r); len(r.GetRandom.Random) != 256 {
		t.Errorf("GetRandom: %d bytes", len(r.GetRandom.Random))
	}
}

func TestLeafIsRenewed(t *testing.T) {
	now := time.Now()
	a, err := OpenAuthority(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	m, err := a.NewModule(nil)
	if err != nil {
		t.Fatal(err)
	}
	document := func() *nitro.Signed {
		raw, err := m.document(nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := nitro.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chain.New().Verify(s, [][]byte{a.RootDER()}, now); err != nil {
			t.Fatalf("at %v: %v", now, err)
		}
		return s
	}
	first := document()
	if again := document(); string(again.Document.Certificate) != string(first.Document.Certificate) {
		t.Error("every document has another certificate: chains cannot be remembered")
	}
	for range 12 { // past the ends of leaves and, in 30 days, of intermediates
		now = now.Add(60 * time.Hour)
		document()
	}
}

func FuzzExchange(f *testing.F) {
	for _, v := range []any{"DescribeNSM", "GetRandom", object{"DescribePCR": object{"index": 1}}, object{"LockPCRs": object{"range": 32}},
		object{"Attestation": object{"user_data": []byte("x"), "nonce": nil, "public_key": nil}}} {
		b, err := cbor.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	a, err := OpenAuthority(f.TempDir(), time.Now)
	if err != nil {
		f.Fatal(err)
	}
	m, err := a.NewModule(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		if _, err := encode(m.Exchange(request)); err != nil {
			t.Errorf("answer does not encode: %v", err)
		}
	})
}
