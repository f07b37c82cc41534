package fleet_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/fleet"
)

// FuzzServer: whatever a worker says, the control plane answers, and remembers only
// what a roster can read again.
func FuzzServer(f *testing.F) {
	good, err := json.Marshal(worker("w1"))
	if err != nil {
		f.Fatal(err)
	}
	birth, err := wire.Marshal(wire.Birth{KMS: "arn:aws:kms:k", Policy: []byte("p"), Document: []byte("d")})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{good, birth, nil, []byte("{}"), []byte(`{"name":"w1","address":":"}`), bytes.Repeat([]byte("["), 20_000)} {
		f.Add(seed)
	}
	tok, err := fleet.NewToken(secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := &rows{all: map[string][]byte{}}
		var born *wire.Birth
		h := fleet.Server{
			Token: tok, Rows: r, Log: slog.New(slog.DiscardHandler), Store: http.NotFoundHandler(),
			Boot: func(context.Context) (wire.Boot, error) { return wire.Boot{}, nil },
			Born: func(_ context.Context, b wire.Birth) error { born = &b; return nil },
		}.Handler()
		for _, route := range [][2]string{{http.MethodPut, "/v1/workers/w1"}, {http.MethodPost, "/v1/birth"}} {
			req := httptest.NewRequestWithContext(t.Context(), route[0], route[1], bytes.NewReader(body))
			req.Header.Set("Authorization", "Bearer "+secret)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			if rec.Code != http.StatusNoContent && rec.Code != http.StatusCreated && rec.Code != http.StatusBadRequest {
				t.Errorf("%s: %d", route[1], rec.Code)
			}
		}
		for _, b := range r.all {
			var w fleet.Worker
			if err := json.Unmarshal(b, &w); err != nil || w.Validate() != nil || w.Name != "w1" {
				t.Errorf("%s was remembered", b)
			}
		}
		if born != nil && (born.KMS == "" || len(born.Document) == 0) {
			t.Errorf("%+v was taken for a birth", born)
		}
	})
}
