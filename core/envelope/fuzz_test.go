package envelope_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
)

func FuzzV2Binary(f *testing.F) {
	f.Add([]byte("cape:v2:"))
	f.Add(seal(f, nil, envelope.ForOwner(), false))
	f.Add(seal(f, pattern(100), forFn, false))
	f.Add(seal(f, pattern(100), envelope.ForName([32]byte{1}, "name"), false))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzV2(t, data, envelope.V2Binary) })
}

func FuzzV2Text(f *testing.F) {
	f.Add([]byte("cape:v2,AAAA\n"))
	f.Add(seal(f, nil, envelope.ForOwner(), true))
	f.Add(seal(f, pattern(100), forFn, true))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzV2(t, data, envelope.V2Text) })
}

// fuzzV2 holds the form against its other one: both must open alike.
func fuzzV2(t *testing.T, data []byte, form envelope.Form) {
	got, to, err := open(t, bytes.NewReader(data))
	if err != nil || envelope.Detect(data) != form {
		return
	}
	other := asText(data)
	if form == envelope.V2Text {
		body, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data[8:])))
		if err != nil {
			t.Fatal(err)
		}
		other = append([]byte("cape:v2:"), body...)
	}
	again, toAgain, err := open(t, bytes.NewReader(other))
	if err != nil || to != toAgain || !bytes.Equal(got, again) {
		t.Errorf("the other form opens otherwise: %v", err)
	}
}
