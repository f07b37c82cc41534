package client_test

import (
	"testing"

	"github.com/cape-functions/cape/client"
	"github.com/cape-functions/cape/client/testkit"
)

// BenchmarkSealedInvoke is a warm call of 1 KiB on an open session; the fake enclave's side
// is in it.
func BenchmarkSealedInvoke(b *testing.B) {
	s := testkit.New(b)
	f := s.Add(testkit.Function{User: "ann", Name: "f", Zip: []byte("zip")})
	c, err := client.New(client.Options{BaseURL: s.URL, Trust: policyOf(s), Token: client.StaticToken(testkit.Token("ann"))})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	session, err := c.Connect(b.Context(), client.Function{Name: f.ID})
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()
	input := make([]byte, 1<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := session.Invoke(b.Context(), input); err != nil {
			b.Fatal(err)
		}
	}
}
