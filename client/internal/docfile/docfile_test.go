package docfile_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/client/internal/docfile"
	attestkit "github.com/cape-functions/cape/core/attest/testkit"
)

func sample() []byte {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := attestkit.NewAuthority("docfile", at)
	return a.Sign(a.Document(at))
}

func TestFind(t *testing.T) {
	doc := sample()
	b64 := base64.StdEncoding.EncodeToString(doc)
	for name, data := range map[string]string{
		"raw":                  string(doc),
		"raw, tagged":          "\xd2" + string(doc),
		"base64":               b64 + "\n",
		"base64 in lines":      b64[:76] + "\r\n" + b64[76:152] + "\r\n" + b64[152:],
		"base64 without pad":   strings.TrimRight(b64, "="),
		"base64url":            base64.URLEncoding.EncodeToString(doc),
		"hex":                  hex.EncodeToString(doc),
		"JSON string":          `"` + b64 + `"`,
		"of /v1/user/…/key":    `{"attestation_document": "` + b64 + `"}`,
		"of cape run":          `{"output":"x","attestation_doc":{"ModuleID":"i"},"raw_attestation_doc":"` + b64 + `"}`,
		"a v1 frame":           `{"message":{"type":"attestation_doc","message":"` + b64 + `"}}`,
		"the inside of one":    `{"type":"attestation_doc","message":"` + b64 + `"}`,
		"a kept key":           `{"origin":"https://x:443","document":"` + b64 + `","nonce":"eA=="}`,
		"with space around it": "\n  {\"attestation_document\":\"" + b64 + "\"}\n\n",
	} {
		got, err := docfile.Find([]byte(data))
		want := doc
		if name == "raw, tagged" {
			want = append([]byte{0xd2}, doc...)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestFindNothing(t *testing.T) {
	deep := fmt.Sprintf(`"%s"`, base64.StdEncoding.EncodeToString(sample()))
	for range 20 {
		deep = `{"message":` + deep + `}`
	}
	for name, data := range map[string]string{
		"empty": "", "space": " \n", "text": "hello", "JSON of something else": `{"a":1}`, "broken JSON": `{"attestation_document":`,
		"an array": `["x"]`, "null": "null", "base64 of something else": "aGVsbG8=", "too deep": deep, "DER": "\x30\x82\x01\x00",
	} {
		if got, err := docfile.Find([]byte(data)); !errors.Is(err, docfile.ErrNone) || got != nil {
			t.Errorf("%s: %d bytes, %v; want ErrNone", name, len(got), err)
		}
	}
}

// FuzzFind: no panic; an error is ErrNone; what is found is found again in its own raw form.
func FuzzFind(f *testing.F) {
	doc := sample()
	b64 := base64.StdEncoding.EncodeToString(doc)
	f.Add(doc)
	f.Add([]byte(b64))
	f.Add([]byte(hex.EncodeToString(doc[:64])))
	f.Add([]byte(`{"attestation_document":"` + b64 + `"}`))
	f.Add([]byte(`{"message":{"message":"` + b64[:100] + `"}}`))
	f.Add([]byte(`"`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := docfile.Find(data)
		if err != nil {
			if !errors.Is(err, docfile.ErrNone) || got != nil {
				t.Fatalf("%v with %d bytes", err, len(got))
			}
			return
		}
		if again, err := docfile.Find(got); err != nil || !bytes.Equal(again, got) {
			t.Fatalf("found, but not again: %v", err)
		}
	})
}
